"""Replay: what the ledger says was chosen is chosen again, and whatever differs or cannot be checked is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from router.replay import MOST_DIFFERENCES_KEPT, Difference, replay
from router.strategies import assign, compile_experiment
from services.runtime.experiment import Experiment
from turnout.v1 import ledger_pb2, prediction_pb2

STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {"kind": "random"},
    "weighted": {"kind": "weighted"},
    "round_robin": {"kind": "round_robin"},
    "time": {"kind": "time", "window_seconds": 900, "burn_in_seconds": 300, "time_zone": "Europe/Berlin"},
}


def experiment(kind: str, **fields: Any) -> Experiment:
    """An experiment of two arms, 70 to 30."""
    arms = {"a": {"variant": "va", "weight": 70}, "b": {"variant": "vb", "weight": 30}}
    form = {
        "name": "dispatch",
        "family": "dispatch",
        "salt": "s",
        "champion": "a",
        "strategy": STRATEGIES[kind],
        "arms": arms,
        "revision": 3,
    }
    return Experiment.model_validate(form | fields)


def decided(configured: Experiment, number: int) -> ledger_pb2.Decision:
    """A decision as a router writes it down."""
    identity: dict[str, Any] = {
        "unit_id": "" if number % 3 == 0 else f"u{number}",
        "decision_id": f"d{number}",
        "tenant": "acme",
        "region": "north",
    }
    instant = 1_790_000_000_000_000 + number * 61_000_000
    chosen = assign(compile_experiment(configured), **identity, at_unix_us=instant, sequence=number)
    recorded = prediction_pb2.Assignment(
        arm=chosen.arm,
        propensity=chosen.propensity,
        reason=prediction_pb2.AssignmentReason.Value(f"ASSIGNMENT_REASON_{chosen.reason.name}"),
        revision=chosen.revision,
        snapshot_digest=chosen.digest,
        sequence=chosen.sequence,
        burn_in=chosen.burn_in,
    )
    return ledger_pb2.Decision(
        **identity,
        family="dispatch",
        assigned_at_unix_us=instant,
        prediction=prediction_pb2.PredictResponse(decision_id=f"d{number}", assignment=recorded),
    )


def by_digest(*configured: Experiment) -> Mapping[int, Experiment]:
    """Snapshots as the ledger keeps them."""
    return {one.digest(): Experiment.from_canonical(one.canonical_json()) for one in configured}


def test_ledger_of_every_strategy_replays_identically() -> None:
    """Through the wire format and the canonical form nothing is lost; the ledger may be streamed."""
    configured = [experiment(kind) for kind in STRATEGIES] + [experiment("random", paused=True)]
    wire = [decided(one, number).SerializeToString() for one in configured for number in range(60)]
    report = replay(map(ledger_pb2.Decision.FromString, wire), by_digest(*configured))
    assert (report.decisions, report.identical, report.differing, report.not_replayed) == (300, 300, 0, 0)
    assert report.clean
    assert report.differences == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("arm", "other"),
        ("propensity", 0.5),
        ("reason", prediction_pb2.ASSIGNMENT_REASON_BLOCK),
        ("revision", 4),
        ("sequence", 8),
        ("burn_in", True),
    ],
)
def test_every_field_is_compared(field: str, value: Any) -> None:
    """One changed field of one decision is found and named, with both values."""
    configured = experiment("weighted")
    entries = [decided(configured, number) for number in range(5)]
    before = getattr(entries[3].prediction.assignment, field)
    setattr(entries[3].prediction.assignment, field, value)
    report = replay(entries, by_digest(configured))
    assert (report.identical, report.differing, report.clean) == (4, 1, False)
    [found] = report.differences
    assert (found.decision_id, found.tenant, found.family, found.field) == ("d3", "acme", "dispatch", field)
    if field != "reason":
        assert (found.recorded, found.replayed) == (str(value), str(before))


def test_changed_subject_changes_the_arm() -> None:
    """A ledger whose decisions name other units than those that were assigned does not pass."""
    configured = experiment("weighted")
    entries = [decided(configured, number) for number in range(200)]
    for entry in entries:
        entry.tenant = "globex"
    report = replay(entries, by_digest(configured))
    assert report.differing > 40
    assert {difference.field for difference in report.differences} == {"arm", "propensity"}


def test_missing_snapshots_are_told_by_digest() -> None:
    """A decision without its snapshot is neither skipped nor counted as identical."""
    known, first, second = experiment("random"), experiment("weighted"), experiment("weighted", revision=9)
    entries = [decided(one, number) for one, count in ((known, 4), (first, 3), (second, 2)) for number in range(count)]
    report = replay(entries, by_digest(known))
    assert report.missing_snapshots == {first.digest(): 3, second.digest(): 2}
    assert (report.decisions, report.identical, report.not_replayed, report.differing) == (9, 4, 5, 0)
    assert not report.clean


def test_decisions_without_experiment_are_counted_apart() -> None:
    """Where nothing was chosen there is nothing to choose again."""
    entry = ledger_pb2.Decision(decision_id="d")
    entry.prediction.assignment.propensity = 1.0
    report = replay([entry], {})
    assert (report.without_experiment, report.not_replayed, report.clean) == (1, 0, True)


def test_arm_without_a_digest_is_missing_its_snapshot() -> None:
    """A record that names an arm but no snapshot cannot be checked, and says so."""
    entry = ledger_pb2.Decision(decision_id="d")
    entry.prediction.assignment.arm = "a"
    assert replay([entry], {}).missing_snapshots == {0: 1}


def test_snapshot_under_a_wrong_digest_is_found() -> None:
    """An experiment that was changed after it was stored no longer has the digest that it is kept under."""
    true, changed = experiment("weighted"), experiment("weighted", salt="t")
    report = replay([decided(true, 1)], {true.digest(): changed})
    digests = Difference("dispatch", "acme", "d1", "snapshot_digest", str(true.digest()), str(changed.digest()))
    assert digests in report.differences


def test_report_is_bounded_and_its_counts_are_not() -> None:
    """However much differs, a thousand differences are shown and all decisions counted."""
    configured = experiment("random")
    entry = decided(configured, 1)
    entry.prediction.assignment.revision = 77
    report = replay([entry] * (MOST_DIFFERENCES_KEPT + 5), by_digest(configured))
    assert (report.differing, len(report.differences)) == (MOST_DIFFERENCES_KEPT + 5, MOST_DIFFERENCES_KEPT)


def test_reason_of_a_newer_router_is_a_difference() -> None:
    """A number that this version does not know is told as it stands."""
    configured = experiment("random")
    entry = decided(configured, 1)
    entry.prediction.assignment.ClearField("reason")
    entry.prediction.assignment.MergeFromString(bytes([0x18, 99]))
    [found] = replay([entry], by_digest(configured)).differences
    assert (found.recorded, found.replayed) == ("99", "ASSIGNMENT_REASON_HASH")
