"""A family's experiments together: which one takes a decision, and what stands around its strategy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.strategies import Assignment, AssignmentReason, assign, compile_experiment
from router.strategies.attributes import attributes_of
from router.strategies.family import Compiler, FamilyExperiments, compile_family
from services.runtime.experiment import BUCKETS, Experiment, Layer
from services.runtime.experiment_set import SetError, check_set
from services.runtime.targeting import Row, compile_condition

NOON = 1_790_000_000
UNITS = 20_000


def experiment(name: str = "main", *, weights: Mapping[str, float] | None = None, **fields: Any) -> Experiment:
    """An experiment of arms a and b, 50 to 50."""
    arms = {arm: {"variant": f"v-{arm}", "weight": weight} for arm, weight in (weights or {"a": 50, "b": 50}).items()}
    form: dict[str, Any] = {"name": name, "family": "f", "salt": "s", "champion": "a", "arms": arms}
    return Experiment.model_validate(form | {"strategy": {"kind": "weighted"}} | fields)


def together(*members: Experiment, layers: Mapping[str, Layer] | None = None) -> FamilyExperiments:
    """Experiments of one family, ready."""
    experiments = {member.name: member for member in members}
    check_set(experiments, layers or {})
    compiled = compile_family("f", experiments, layers or {})
    assert compiled is not None
    return compiled


def row(tenant: str = "acme", **numbers: float) -> Row:
    """What conditions see."""
    return Row(tenant, {}, numbers, {}, {})


def decide(family: FamilyExperiments, unit_id: str, *, at: int = NOON, seen: Row | None = None) -> Assignment:
    """The assignment of a unit."""
    seen = seen or row()
    return family.assign(
        unit_id=unit_id,
        decision_id="d",
        tenant=seen.tenant,
        region="",
        at_unix_us=at * 10**6,
        position=lambda _: 0,
        look=lambda: seen,
        unevaluable=lambda _: None,
    )


def shares(family: FamilyExperiments, **options: Any) -> dict[str, float]:
    """The part of the units that each arm gets."""
    counts = Counter(decide(family, str(i), **options).arm for i in range(UNITS))
    return {arm: count / UNITS for arm, count in counts.items()}


def near(share: float) -> Any:
    """Five standard deviations of a share of the units."""
    return pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / UNITS))


EVERYTHING: dict[str, Any] = {
    "overrides": {"vip": "b"},
    "hold_out_percent": 10,
    "ramp": {"starts_at_unix_s": NOON, "steps": [{"after_seconds": 60, "weights": {"a": 0, "b": 100}}]},
}


@pytest.mark.parametrize(
    ("fields", "arm", "reason"),
    [
        ({"winner": "b", "paused": True}, "b", AssignmentReason.CONCLUDED),
        ({"paused": True}, "a", AssignmentReason.PAUSED),
        ({}, "b", AssignmentReason.OVERRIDE),
    ],
)
def test_concluded_goes_before_paused_before_overrides(
    fields: dict[str, Any], arm: str, reason: AssignmentReason
) -> None:
    """The first that applies decides, and it draws nothing: the propensity is 1."""
    chosen = decide(together(experiment(**EVERYTHING, **fields)), "vip")
    assert (chosen.arm, chosen.reason, chosen.propensity) == (arm, reason, 1.0)
    assert chosen.experiment == "main"


def test_hold_out_goes_before_the_ramp_and_keeps_its_units() -> None:
    """The same tenth goes to the champion at every stage; all others follow the stage."""
    family = together(experiment(**EVERYTHING))
    before = [decide(family, str(i), at=NOON + 59) for i in range(2000)]
    after = [decide(family, str(i), at=NOON + 60) for i in range(2000)]
    held = [i for i, chosen in enumerate(before) if chosen.reason is AssignmentReason.HOLD_OUT]
    assert held == [i for i, chosen in enumerate(after) if chosen.reason is AssignmentReason.HOLD_OUT]
    assert {after[i].arm for i in held} == {"a"}
    assert {chosen.arm for i, chosen in enumerate(after) if i not in set(held)} == {"b"}
    assert {(chosen.arm, chosen.propensity) for chosen in before} == {("a", 0.55), ("b", 0.45)}
    assert {(chosen.arm, chosen.propensity) for chosen in after} == {("a", 0.1), ("b", 0.9)}


STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {"kind": "random"},
    "weighted": {"kind": "weighted"},
    "round_robin": {"kind": "round_robin"},
    "seeded": {"kind": "time", "window_seconds": 60},
    "alternating": {"kind": "time", "window_seconds": 60, "assignment": "alternating"},
}
SHARE_OF_A = {"random": 1 / 2, "weighted": 3 / 4, "round_robin": 3 / 4, "seeded": 3 / 4, "alternating": 1 / 2}


@pytest.mark.parametrize("name", STRATEGIES)
def test_propensity_mixes_the_hold_out_in(name: str) -> None:
    """An arm's propensity is how often it comes over all units, held out or not, whatever the strategy."""
    held = 0.2
    configured = experiment(weights={"a": 75, "b": 25}, strategy=STRATEGIES[name], hold_out_percent=20)
    snapshot = compile_experiment(configured)
    counts: Counter[str] = Counter()
    told: dict[str, float] = {}
    for i in range(UNITS):
        chosen = assign(
            snapshot,
            unit_id=str(i),
            decision_id="",
            tenant="t",
            region=str(i),
            at_unix_us=(NOON + 61 * i) * 10**6,
            sequence=i,
        )
        counts[chosen.arm] += 1
        assert told.setdefault(chosen.arm, chosen.propensity) == chosen.propensity
    expected = held + (1 - held) * SHARE_OF_A[name]
    assert told == pytest.approx({"a": expected, "b": 1 - expected}, abs=1e-15)
    assert counts["a"] / UNITS == near(expected)


def test_hold_out_of_a_timetable_tells_what_could_have_been() -> None:
    """Nothing is drawn but the hold-out: a held-out unit had another arm's hour with the share of the hold-out."""
    slots = [{"start_seconds": 0, "arm": "a"}, {"start_seconds": 43_200, "arm": "b"}]
    time = {"kind": "time", "assignment": "timetable", "timetable": slots}
    family = together(experiment(strategy=time, hold_out_percent=20))
    midnight = NOON - NOON % 86_400
    morning = {decide(family, str(i), at=midnight + 3600)[:4] for i in range(500)}
    evening = {decide(family, str(i), at=midnight + 60_000)[:4] for i in range(500)}
    block, hold_out = AssignmentReason.BLOCK, AssignmentReason.HOLD_OUT
    assert morning == {("a", "v-a", 1.0, block), ("a", "v-a", 1.0, hold_out)}
    assert evening == {("b", "v-b", 0.8, block), ("a", "v-a", 0.2, hold_out)}


def test_ramp_moves_units_one_way_at_its_instants() -> None:
    """Each step adds units to the growing arm and takes none back."""
    steps = [{"after_seconds": 60 * i, "weights": {"a": 100 - 20 * i, "b": 20 * i}} for i in range(6)]
    ramp = {"starts_at_unix_s": NOON, "steps": steps}
    family = together(experiment(weights={"a": 100, "b": 0}, ramp=ramp))
    before: set[int] = set()
    for i in range(6):
        now = {unit for unit in range(2000) if decide(family, str(unit), at=NOON + 60 * i).arm == "b"}
        late = {unit for unit in range(2000) if decide(family, str(unit), at=NOON + 60 * i + 59).arm == "b"}
        assert now == late
        assert before <= now
        before = now
    assert len(before) == 2000
    assert decide(family, "u", at=NOON - 1).arm == "a"


def test_experiments_of_one_layer_never_share_a_unit() -> None:
    """Each unit is in one of them at most, with the shares of their slices; the rest goes to who comes after them."""
    layers = {"ui": Layer(salt="l")}
    family = together(
        experiment("first", layer={"layer": "ui", "start": 0, "end": 3000}, weights={"x": 1}, champion="x"),
        experiment("second", layer={"layer": "ui", "start": 3000, "end": 5000}, weights={"y": 1}, champion="y"),
        experiment("zero"),
        layers=layers,
    )
    found = Counter(decide(family, str(i)).experiment for i in range(UNITS))
    assert {name: count / UNITS for name, count in found.items()} == {
        "first": near(0.3),
        "second": near(0.2),
        "zero": near(0.5),
    }


def test_layer_within_a_slice_reaches_only_its_units() -> None:
    """A unit must be in the outer slice and in the inner one, which are dealt independently."""
    layers = {
        "outer": Layer(salt="o"),
        "inner": Layer.model_validate({"salt": "i", "within": {"layer": "outer", "start": 5000, "end": 10_000}}),
    }
    family = together(
        experiment("whole", layer={"layer": "outer", "start": 0, "end": 5000}),
        experiment("nested", layer={"layer": "inner", "start": 0, "end": 4000}),
        layers=layers,
    )
    found = Counter(decide(family, str(i)).experiment for i in range(UNITS))
    assert found["whole"] / UNITS == near(0.5)
    assert found["nested"] / UNITS == near(0.2)
    assert found[""] / UNITS == near(0.3)


def test_what_nobody_takes_goes_to_the_rules() -> None:
    """No arm, no revision, certainty; the digest still tells under which set that was."""
    family = together(experiment(when="tenant == 'globex'"))
    nobody = decide(family, "u")
    assert nobody == Assignment("", "rules", 1.0, AssignmentReason.UNSPECIFIED, 0, family.digest)


def test_own_tenant_goes_before_everyone_and_priority_before_name() -> None:
    """Precedence: the tenant's own experiments, then higher priority, then the name."""
    everyone = experiment("a-everyone", when="true", priority=1000)
    own = experiment("z-own", tenant="acme", when="true", priority=-1000)
    family = together(everyone, own, experiment("b-everyone", when="true", priority=2))
    assert list(family.experiments) == ["z-own", "a-everyone", "b-everyone"]
    assert decide(family, "u").experiment == "z-own"
    assert decide(family, "u", seen=row("globex")).experiment == "a-everyone"


def test_condition_that_cannot_be_evaluated_is_passed_over_and_told() -> None:
    """A feature that the row does not give costs nobody an answer."""
    family = together(experiment("picky", when='numbers["speed"] > 3.0', priority=1), experiment("main"))
    heard: list[str] = []
    chosen = family.assign(
        unit_id="u",
        decision_id="d",
        tenant="acme",
        region="",
        at_unix_us=0,
        position=lambda _: 0,
        look=lambda: row(other=1.0),
        unevaluable=lambda one: heard.append(one.name),
    )
    assert (chosen.experiment, heard) == ("main", ["picky"])
    assert decide(family, "u", seen=row(speed=4.0)).experiment == "picky"
    assert decide(family, "u", seen=row(speed=3.0)).experiment == "main"


TENANTS = ["acme", "globex", None]
CONDITIONS = ["", 'numbers["x"] > 0.5', 'tenant == "acme"', 'metadata["app"] == "2"']


@st.composite
def sets(draw: st.DrawFn) -> FamilyExperiments:
    """Sets of experiments with tenants, conditions, and nested layers."""
    layers = {
        "outer": Layer(salt=draw(st.text(min_size=1, max_size=4))),
        "inner": Layer.model_validate({"salt": "i", "within": {"layer": "outer", "start": 2000, "end": 9000}}),
    }
    cuts = {name: sorted(draw(st.sets(st.integers(1, BUCKETS - 1), min_size=1, max_size=4))) for name in layers}
    slices: list[dict[str, Any] | None] = [
        {"layer": name, "start": start, "end": end}
        for name, ends in cuts.items()
        for start, end in zip([0, *ends], [*ends, BUCKETS], strict=True)
    ]
    members: dict[str, Experiment] = {}
    for number, part in enumerate(draw(st.permutations(slices + [None] * 4))):
        fields: dict[str, Any] = {
            "tenant": draw(st.sampled_from(TENANTS)),
            "when": draw(st.sampled_from(CONDITIONS)),
            "priority": draw(st.integers(-2, 2)),
            "layer": part,
        }
        one = experiment(f"e{number}", **fields)
        try:
            check_set({**members, one.name: one}, layers)
        except SetError:
            continue
        members[one.name] = one
    return together(*members.values(), layers=layers)


SLICES = st.tuples(st.integers(0, 30), st.integers(1, 12)).map(lambda given: (given[0], given[0] + given[1]))


@given(own=st.lists(SLICES, max_size=3), children=st.lists(SLICES, max_size=3))
def test_nobody_shares_a_bucket_with_an_experiment(own: list[tuple[int, int]], children: list[tuple[int, int]]) -> None:
    """Not another experiment, and no layer within the same one; layers may share buckets with each other."""

    def part(given: tuple[int, int]) -> dict[str, Any]:
        return {"layer": "page", "start": given[0], "end": given[1]}

    experiments = {f"e{n}": experiment(f"e{n}", layer=part(given)) for n, given in enumerate(own)}
    within = {f"l{n}": Layer.model_validate({"salt": "s", "within": part(given)}) for n, given in enumerate(children)}
    layers = {"page": Layer(salt="p"), **within}
    taken = Counter(bucket for start, end in own for bucket in range(start, end))
    reached = {bucket for start, end in children for bucket in range(start, end)}
    if max(taken.values(), default=0) <= 1 and not reached & taken.keys():
        check_set(experiments, layers)
        return
    with pytest.raises(SetError, match="slices of layer 'page' overlap") as refused:
        check_set(experiments, layers)
    one, other = (refused.value.path, *refused.value.also)
    held = {("experiments", name): given for name, given in zip(experiments, own, strict=True)}
    held |= {("layers", name): given for name, given in zip(within, children, strict=True)}
    (first, second), kinds = (held[one[0], one[1]], held[other[0], other[1]]), {one[0], other[0]}
    assert max(first[0], second[0]) < min(first[1], second[1])
    assert "experiments" in kinds
    assert refused.value.at(other[0], other[1]) == other
    assert refused.value.at("experiments", "nobody") == one


@settings(max_examples=100)
@given(family=sets(), units=st.lists(st.text(max_size=6), min_size=1, max_size=20), data=st.data())
def test_indexes_find_what_asking_one_after_the_other_finds(
    family: FamilyExperiments, units: list[str], data: st.DataObject
) -> None:
    """However many tenants, layers and conditions: the quick way and the plain way agree on every decision."""
    for number, unit in enumerate(units):
        tenant = data.draw(st.sampled_from(["acme", "globex", "other"]))
        metadata = data.draw(st.sampled_from([{}, {"app": "1"}, {"app": "2"}]))
        seen = Row(tenant, metadata, data.draw(st.sampled_from([{}, {"x": 0.4}, {"x": 0.6}])), {}, {})
        identity = {"tenant": tenant, "unit_id": unit, "decision_id": f"d{number}"}
        expected, told = family.passed_over(**identity, look=lambda seen=seen: seen)  # type: ignore[misc]
        found = family.find(**identity, look=lambda seen=seen: seen, unevaluable=lambda _: None)  # type: ignore[misc]
        assert found is expected
        before = [name for name, one in family.experiments.items() if one.experiment.tenant in (None, tenant)]
        asked = before.index(expected.experiment.name) if expected is not None else len(before)
        assert [sentence.partition(":")[0] for sentence in told] == before[:asked]


def test_one_plain_experiment_is_asked_nothing() -> None:
    """What is not used costs nothing: neither a subject, a row nor a hash is made."""
    assert together(experiment()).sole is not None
    assert together(experiment(), experiment("own", tenant="acme", when="true")).sole is None
    assert together(experiment(when="true")).sole is None


def test_digest_changes_with_every_part_and_with_nothing_else() -> None:
    """Experiments, their order of precedence and the layers they need count; other layers and families do not."""
    layers = {"ui": Layer(salt="l"), "other": Layer(salt="o")}
    one = experiment("one", layer={"layer": "ui", "start": 0, "end": 10})
    base = together(one, experiment("zero"), layers=layers)
    assert together(experiment("zero"), one, layers=layers).digest == base.digest
    assert together(one, experiment("zero"), layers={**layers, "other": Layer(salt="p")}).digest == base.digest
    assert together(one, experiment("zero"), layers={**layers, "ui": Layer(salt="m")}).digest != base.digest
    assert together(one, experiment("zero", revision=2), layers=layers).digest != base.digest
    assert together(one, layers=layers).digest != base.digest
    assert {chosen.digest for chosen in (decide(base, str(i)) for i in range(9))} == {base.digest}


def test_only_what_changed_is_made_again() -> None:
    """A long rotation is worked out once, however often its neighbours change."""
    compiler = Compiler()
    steady = experiment("steady", weights={"a": 99.99, "b": 0.01}, strategy={"kind": "round_robin"}, priority=1)
    steady = steady.model_copy(update={"tenant": "acme"})
    before = compiler.compile({"steady": steady, "main": experiment()}, {})["f"].experiments["steady"]
    after = compiler.compile({"steady": steady, "main": experiment(revision=2)}, {})["f"].experiments["steady"]
    assert before.experiment is after.experiment
    assert before.strategy.cycle is after.strategy.cycle  # type: ignore[attr-defined]
    assert before.digest != after.digest


@pytest.mark.parametrize(
    ("condition", "names", "every"),
    [
        ('tenant == "acme"', set(), False),
        ('metadata["app"] == "2" || metadata.channel == \'web\'', {"app", "channel"}, False),
        ('"beta" in metadata && has(metadata.beta)', {"beta"}, False),
        ("metadata[tenant] == 'x'", set(), True),
        ("metadata.exists(k, k == 'x')", set(), True),
        ('"a" + "b" in metadata', set(), True),
        ("size(metadata) > 2", set(), True),
        (r'metadata["\x61"] == "1"', set(), True),
        ('r"a" in metadata', set(), True),
    ],
)
def test_only_what_a_condition_looks_at_is_kept(condition: str, names: set[str], *, every: bool) -> None:
    """Entries that are named are known; any other way of looking means all of them, never fewer."""
    compile_condition(condition)
    found = attributes_of([condition])
    assert (set(found.names), found.every) == (names, every)
    assert found.wanted == (every or bool(names))


CLOCKS: dict[str, dict[str, Any]] = {
    "seeded": {"window_seconds": 60},
    "alternating": {"window_seconds": 45, "offset_seconds": 7, "assignment": "alternating"},
    "berlin": {"window_seconds": 1800, "time_zone": "Europe/Berlin"},
    "timetable": {
        "time_zone": "America/New_York",
        "assignment": "timetable",
        "timetable": [{"start_seconds": 0, "arm": "a"}, {"start_seconds": 5400, "arm": "b"}],
    },
}
# Clocks go back at 2026-10-25T01:00Z in Berlin and at 2026-11-01T06:00Z in New York.
INSTANTS = st.one_of(
    st.integers(0, 2**33), st.integers(1_792_886_400, 1_792_897_200), st.integers(1_793_509_200, 1_793_520_000)
)


@pytest.mark.parametrize("name", CLOCKS)
@settings(max_examples=200)
@given(second=INSTANTS, early=st.lists(st.integers(-2_000_000, 2_000_000), min_size=5, max_size=5))
def test_five_routers_with_clocks_apart_agree_outside_burn_in(name: str, second: int, early: list[int]) -> None:
    """Clocks up to two seconds off either way: those that do not mark a burn-in all give one arm."""
    time = {"kind": "time", "burn_in_seconds": 4} | CLOCKS[name]
    snapshot = compile_experiment(experiment(strategy=time))
    said = [
        assign(
            snapshot,
            unit_id="u",
            decision_id="d",
            tenant="t",
            region="r",
            at_unix_us=second * 10**6 + off,
            sequence=0,
        )
        for off in early
    ]
    assert len({chosen.arm for chosen in said if not chosen.burn_in}) <= 1
