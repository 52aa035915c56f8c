"""Laws that hold for every strategy: there is always an arm, never one of weight 0, and a replay is identical."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.strategies import Assignment, AssignmentReason, assign, compile_experiment
from services.runtime.experiment import Experiment
from turnout.v1 import prediction_pb2

TIME: dict[str, Any] = {"kind": "time", "window_seconds": 3600, "burn_in_seconds": 120, "time_zone": "Europe/Berlin"}
SLOTS = [{"start_seconds": 0, "arm": "b"}, {"start_seconds": 21_600, "arm": "a"}]
STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {"kind": "random"},
    "weighted": {"kind": "weighted"},
    "round_robin": {"kind": "round_robin"},
    "seeded": TIME,
    "seeded_utc": {"kind": "time", "window_seconds": 600_000, "offset_seconds": 11},
    "alternating": TIME | {"assignment": "alternating"},
    "timetable": TIME | {"assignment": "timetable", "timetable": SLOTS},
}
CHANCE = {
    "random": {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3},
    "weighted": {"a": 0.5, "b": 0.3, "c": 0.2},
    "round_robin": {"a": 0.5, "b": 0.3, "c": 0.2},
    "seeded": {"a": 0.5, "b": 0.3, "c": 0.2},
    "seeded_utc": {"a": 0.5, "b": 0.3, "c": 0.2},
    "alternating": {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3},
}
WEIGHTS = {"a": 5.0, "b": 3.0, "zero": 0.0, "c": 2.0}
NOON = 1_790_000_000_000_000


def experiment(name: str, weights: dict[str, float] | None = None, **fields: Any) -> Experiment:
    """An experiment of the named strategy."""
    arms = {arm: {"variant": f"v-{arm}", "weight": weight} for arm, weight in (weights or WEIGHTS).items()}
    form = {
        "name": "dispatch",
        "family": "dispatch",
        "salt": "laws",
        "champion": "zero",
        "strategy": STRATEGIES[name],
        "arms": arms,
    }
    return Experiment.model_validate(form | fields)


def decision(**fields: Any) -> dict[str, Any]:
    """A decision's arguments."""
    ordinary = {"unit_id": "u", "decision_id": "d", "tenant": "acme", "region": "north", "at_unix_us": NOON}
    return ordinary | {"sequence": 0} | fields


every_strategy = pytest.mark.parametrize("name", STRATEGIES)
DECISIONS = st.fixed_dictionaries(
    {
        "unit_id": st.text(max_size=20),
        "decision_id": st.text(max_size=20),
        "tenant": st.text(max_size=8),
        "region": st.text(max_size=8),
        "at_unix_us": st.integers(-(2**63), 2**63 - 1),
        "sequence": st.integers(0, 2**64 - 1),
    }
)
ODD = decision(unit_id="\ud800", decision_id="", tenant="\udfff", region="\0", at_unix_us=-(2**63), sequence=2**64 - 1)


@every_strategy
@settings(max_examples=60, deadline=None)
@given(arguments=DECISIONS, paused=st.booleans())
@example(arguments=ODD, paused=False)
def test_there_is_always_an_arm_and_never_one_of_weight_zero(
    name: str, *, arguments: dict[str, Any], paused: bool
) -> None:
    """Whatever the texts and the instant, a known arm comes back; one of weight 0 only when a pause says so."""
    configured = experiment(name, paused=paused)
    chosen = assign(compile_experiment(configured), **arguments)
    assert chosen.arm in ({"zero"} if paused else {"a", "b", "c"})
    assert chosen.variant == f"v-{chosen.arm}"
    assert 0 < chosen.propensity <= 1
    assert (chosen.revision, chosen.digest) == (configured.revision, configured.digest())
    assert chosen.sequence == (arguments["sequence"] if name == "round_robin" and not paused else 0)


@every_strategy
@settings(max_examples=40, deadline=None)
@given(arguments=DECISIONS)
def test_replay_after_a_round_trip_is_identical(name: str, arguments: dict[str, Any]) -> None:
    """The experiment read back from its canonical form assigns the same, to the bit of the propensity."""
    first = experiment(name)
    second = Experiment.from_canonical(first.canonical_json())
    assert second == first
    assert assign(compile_experiment(second), **arguments) == assign(compile_experiment(first), **arguments)


@every_strategy
def test_order_of_the_questions_does_not_matter(name: str) -> None:
    """A snapshot keeps nothing from one question to the next that changes an answer."""
    questions = [decision(unit_id=f"u{i}", sequence=i, at_unix_us=NOON + i * 977_000_000) for i in range(300)]
    forwards, backwards = compile_experiment(experiment(name)), compile_experiment(experiment(name))
    answers = [assign(forwards, **question) for question in questions]
    assert answers == [assign(backwards, **question) for question in reversed(questions)][::-1]


@every_strategy
def test_one_arm_with_weight_gets_everything(name: str) -> None:
    """A single arm is chosen with certainty."""
    slots = {"timetable": [{"start_seconds": 0, "arm": "a"}]} if name == "timetable" else {}
    snapshot = compile_experiment(
        experiment(name, {"zero": 0, "a": 7}, strategy=STRATEGIES[name] | slots),
    )
    for i in range(50):
        chosen = assign(snapshot, **decision(unit_id=str(i), sequence=i, at_unix_us=NOON + i * 3_600_000_000))
        assert (chosen.arm, chosen.propensity) == ("a", 1.0)


@pytest.mark.parametrize("name", CHANCE)
def test_propensity_is_the_true_probability(name: str) -> None:
    """Over salts, each arm comes as often as its propensity says, within five standard deviations.

    A rotation draws nothing: there it is the frequency over positions.
    """
    trials = 6_000
    counts: Counter[str] = Counter()
    told: dict[str, float] = {}
    for i in range(trials):
        if i % 10 == 0:
            snapshot = compile_experiment(experiment(name, salt=f"salt {i}"))
        chosen = assign(snapshot, **decision(unit_id=f"u{i}", sequence=i, region=f"r{i}"))
        counts[chosen.arm] += 1
        told[chosen.arm] = chosen.propensity
    assert told == pytest.approx(CHANCE[name], abs=1e-15)
    assert math.fsum(told.values()) == pytest.approx(1.0, abs=1e-15)
    for arm, share in CHANCE[name].items():
        assert abs(counts[arm] - trials * share) < 5 * math.sqrt(trials * share * (1 - share))


@every_strategy
def test_pause_sends_everything_to_the_champion(name: str) -> None:
    """A pause overrides the strategy, takes no position of the rotation, and marks no burn-in."""
    snapshot = compile_experiment(experiment(name, paused=True, revision=4))
    expected = Assignment("zero", "v-zero", 1.0, AssignmentReason.PAUSED, 4, snapshot.digest, experiment="dispatch")
    assert not snapshot.rotates
    assert assign(snapshot, **decision(sequence=9)) == expected


def test_only_round_robin_takes_positions() -> None:
    """The router counts on where a rotation needs it, and nowhere else."""
    assert [name for name in STRATEGIES if compile_experiment(experiment(name)).rotates] == ["round_robin"]


def test_reasons_are_numbered_as_in_the_contract() -> None:
    """The ledger's numbers and ours are the same."""
    names = prediction_pb2.AssignmentReason.DESCRIPTOR.values_by_name
    assert {f"ASSIGNMENT_REASON_{reason.name}": reason.value for reason in AssignmentReason} == {
        name: value.number for name, value in names.items()
    }
