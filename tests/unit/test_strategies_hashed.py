"""Random and weighted: sticky, independent among tenants, and with the least possible movement."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.strategies import Hashed, Snapshot, assign, compile_experiment
from router.strategies.hashing import MASK, mix, salt_key
from router.strategies.rendezvous import Rendezvous
from services.runtime.experiment import Experiment

UNITS = 20_000


def weighted(arms: dict[str, float], kind: str = "weighted", salt: str = "s") -> Snapshot:
    """A compiled split by hash."""
    form: dict[str, Any] = {
        "name": "dispatch",
        "family": "dispatch",
        "salt": salt,
        "champion": next(iter(arms)),
        "strategy": {"kind": kind},
    }
    form["arms"] = {name: {"variant": name, "weight": weight} for name, weight in arms.items()}
    return compile_experiment(Experiment.model_validate(form))


def arm(snapshot: Snapshot, unit_id: str, **fields: Any) -> str:
    """The arm of a unit."""
    arguments: dict[str, Any] = {"decision_id": "d", "tenant": "t", "region": "", "at_unix_us": 0, "sequence": 0}
    return assign(snapshot, unit_id=unit_id, **(arguments | fields)).arm


def moves(before: Snapshot, after: Snapshot) -> dict[tuple[str, str], float]:
    """The part of the units that goes from one arm to another."""
    counts: dict[tuple[str, str], float] = {}
    for i in range(UNITS):
        pair = arm(before, str(i)), arm(after, str(i))
        if pair[0] != pair[1]:
            counts[pair] = counts.get(pair, 0) + 1 / UNITS
    return counts


def near(share: float) -> Any:
    """Five standard deviations of a share of the units."""
    return pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / UNITS))


@settings(deadline=None)
@given(
    unit_id=st.text(min_size=1),
    others=st.fixed_dictionaries(
        {
            "decision_id": st.text(),
            "region": st.text(),
            "at_unix_us": st.integers(-(2**63), 2**63 - 1),
            "sequence": st.integers(0, 2**64 - 1),
        }
    ),
)
def test_unit_keeps_its_arm(unit_id: str, others: dict[str, Any]) -> None:
    """Nothing but tenant and unit moves a unit."""
    for kind in ("random", "weighted"):
        snapshot = weighted({"a": 3, "b": 2, "c": 1}, kind)
        assert arm(snapshot, unit_id, **others) == arm(snapshot, unit_id)


def test_without_a_unit_the_decision_is_hashed_apart_from_units() -> None:
    """Decisions share out by their ids, and an id that equals a unit's is another subject."""
    snapshot = weighted({"a": 1, "b": 1})
    by_decision = [arm(snapshot, "", decision_id=str(i)) for i in range(UNITS)]
    same = sum(by_decision[i] == arm(snapshot, str(i)) for i in range(UNITS)) / UNITS
    assert by_decision.count("a") / UNITS == near(0.5)
    assert same == near(0.5)


def test_tenants_regions_of_text_and_salts_are_independent() -> None:
    """Equal units of two tenants, or of two salts, agree only by chance."""
    first, second = weighted({"a": 1, "b": 1}), weighted({"a": 1, "b": 1}, salt="other")
    assert sum(arm(first, str(i)) == arm(first, str(i), tenant="u") for i in range(UNITS)) / UNITS == near(0.5)
    assert sum(arm(first, str(i)) == arm(second, str(i)) for i in range(UNITS)) / UNITS == near(0.5)


def test_border_between_tenant_and_unit_counts() -> None:
    """Tenant "ab" with unit "c" is not tenant "a" with unit "bc"."""
    many = weighted({str(i): 1 for i in range(32)})
    pairs = [(arm(many, f"{i}x", tenant="ab"), arm(many, f"b{i}x", tenant="a")) for i in range(200)]
    assert sum(first == second for first, second in pairs) < 40


def test_raising_a_weight_moves_only_what_it_must() -> None:
    """50/50 to 60/40 moves ten percent of the units, all in one direction."""
    assert moves(weighted({"a": 50, "b": 50}), weighted({"a": 60, "b": 40})) == {("b", "a"): near(0.1)}


def test_dropping_an_arm_moves_only_its_units() -> None:
    """The others keep theirs and share the dropped arm's in proportion, be it left out or given weight 0."""
    whole = weighted({"a": 5, "b": 3, "c": 2})
    expected = {("c", "a"): near(0.2 * 5 / 8), ("c", "b"): near(0.2 * 3 / 8)}
    assert moves(whole, weighted({"a": 5, "b": 3})) == expected
    assert moves(whole, weighted({"a": 5, "b": 3, "c": 0})) == expected


def test_order_and_scale_of_the_weights_do_not_matter() -> None:
    """Only the proportions count."""
    assert moves(weighted({"a": 5, "b": 3, "c": 2}), weighted({"c": 0.2, "a": 0.5, "b": 0.3})) == {}


def test_random_is_weighted_with_equal_weights() -> None:
    """Random ignores how large a weight is, though not that it is 0; equal weights take no logarithm's way."""
    assert moves(weighted({"a": 9, "b": 1, "c": 0}, "random"), weighted({"a": 1, "b": 1})) == {}


@settings(max_examples=200, deadline=None)
@given(
    digest=st.integers(0, MASK),
    weights=st.dictionaries(st.text(max_size=3), st.integers(1, 10**6), min_size=1, max_size=6),
)
def test_doubles_decide_as_eighty_digits_do(digest: int, weights: dict[str, int]) -> None:
    """The quick way and the exact way choose the same arm."""
    race = Rendezvous.of(weights, salt_key("s"))
    assert race.winner(digest) == race.settle(digest)


@pytest.mark.parametrize("equal", [True, False])
def test_perfect_tie_goes_to_the_first_name(*, equal: bool) -> None:
    """Arms with the same draw and weight, which chance will hardly ever make, are settled by name."""
    for digest in range(100):
        race = Rendezvous(names=("a", "b", "c"), racers=((7, 2.0), (7, 2.0), (7, 2.0)), equal=equal)
        assert race.winner(digest) == 0


def test_near_ties_are_put_in_their_true_order() -> None:
    """Where doubles cannot tell two keys apart, or get them wrong, whole numbers agree with the choice."""
    misjudged = 0
    for step in range(300):
        first = 2**52 + 2 * step * 7_919_191 + 1
        # The odd number whose key with weight 3 comes nearest to that of `first` with weight 2: u2 = u1 ** 1.5.
        second = math.isqrt(first**3 // 2**53) | 1
        race = Rendezvous(names=("a", "b"), racers=((_seed_for(first), 2.0), (_seed_for(second), 3.0)), equal=False)
        # -ln(u1) / 2 < -ln(u2) / 3 is the same as u1 ** 3 > u2 ** 2.
        assert race.winner(0) == (0 if first**3 > second**2 * 2**53 else 1)
        keys = [-math.log(number * 2.0**-53) / weight for number, weight in ((first, 2), (second, 3))]
        assert abs(keys[0] - keys[1]) < keys[0] * 2.0**-40
        misjudged += (keys[0] < keys[1]) != (first**3 > second**2 * 2**53)
    assert misjudged > 0


def _seed_for(number: int) -> int:
    """A seed that makes digest 0 draw the odd `number`: the mixing undone."""
    value = (number >> 1) << 12
    for factor, shift in ((1, 31), (0x94D049BB133111EB, 27), (0xBF58476D1CE4E5B9, 30)):
        value = value * pow(factor, -1, 2**64) & MASK
        value ^= value >> shift ^ value >> 2 * shift
    assert mix(value) >> 12 == number >> 1
    return value


@given(st.lists(st.tuples(st.text(max_size=4), st.text(min_size=1, max_size=4)), max_size=20), st.integers(1, 3))
def test_many_units_are_assigned_as_each_alone(pairs: list[tuple[str, str]], arms: int) -> None:
    """To the same arm and with the same words, with a unit and without."""
    strategy = weighted({f"a{number}": number + 1 for number in range(arms)}).strategy
    assert isinstance(strategy, Hashed)
    units, decisions = [unit for unit, _ in pairs], [decision for _, decision in pairs]
    assert strategy.assign_all("t", units, decisions) == [
        strategy.assign(unit_id=unit, decision_id=decision, tenant="t", region="", at_unix_us=0, sequence=0)
        for unit, decision in pairs
    ]
