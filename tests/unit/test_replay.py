"""Replay: what the ledger says was chosen is chosen again, and whatever differs or cannot be checked is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bentos.family import load
from router.conditions import row_of
from router.dry_run import assign_as_recorded, message
from router.replay import MOST_DIFFERENCES_KEPT, Difference, replay
from router.strategies.family import FamilyExperiments, compile_family
from services.runtime.experiment import Experiment, Layer
from services.runtime.targeting import Row
from turnout.v1 import ledger_pb2, prediction_pb2

REQUIRED = {"distance_km": 2.5, "response_time_min": 6.0, "weekday": 2.0}
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


def family_of(*configured: Experiment, layers: Mapping[str, Layer] | None = None) -> FamilyExperiments:
    """A family's experiments, ready."""
    compiled = compile_family("dispatch", {one.name: one for one in configured}, layers or {})
    assert compiled is not None
    return compiled


NOTHING = Row("acme", {}, {}, {}, {})


def decided(configured: Experiment | FamilyExperiments, number: int, row: Row = NOTHING) -> ledger_pb2.Decision:
    """A decision as a router writes it down."""
    experiments = family_of(configured) if isinstance(configured, Experiment) else configured
    identity: dict[str, Any] = {
        "unit_id": "" if number % 3 == 0 else f"u{number}",
        "decision_id": f"d{number}",
        "tenant": "acme",
        "region": "north",
    }
    instant = 1_790_000_000_000_000 + number * 61_000_000
    chosen = assign_as_recorded(experiments, **identity, at_unix_us=instant, sequence=number, row=row)
    return ledger_pb2.Decision(
        **identity,
        family="dispatch",
        assigned_at_unix_us=instant,
        attributes=dict(row.metadata),
        prediction=prediction_pb2.PredictResponse(decision_id=f"d{number}", assignment=message(chosen)),
    )


def kept(*configured: Experiment | FamilyExperiments) -> list[ledger_pb2.ExperimentSnapshot]:
    """Snapshots as routers write them down."""
    found = []
    for one in configured:
        family = family_of(one) if isinstance(one, Experiment) else one
        found += [
            ledger_pb2.ExperimentSnapshot(
                family="dispatch",
                digest=family.digests[name],
                canonical_json=member.experiment.canonical_json(),
            )
            for name, member in family.experiments.items()
        ]
        found.append(
            ledger_pb2.ExperimentSnapshot(family="dispatch", digest=family.digest, canonical_json=family.canonical)
        )
    return found


def test_ledger_of_every_strategy_replays_identically() -> None:
    """Through the wire format and the canonical form nothing is lost; the ledger may be streamed."""
    configured = [experiment(kind) for kind in STRATEGIES] + [experiment("random", paused=True)]
    wire = [decided(one, number).SerializeToString() for one in configured for number in range(60)]
    report = replay(map(ledger_pb2.Decision.FromString, wire), kept(*configured))
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
    report = replay(entries, kept(configured))
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
    report = replay(entries, kept(configured))
    assert report.differing > 40
    assert {difference.field for difference in report.differences} == {"arm", "propensity"}


def test_missing_snapshots_are_told_kept() -> None:
    """A decision without its snapshot is neither skipped nor counted as identical."""
    known, first, second = experiment("random"), experiment("weighted"), experiment("weighted", revision=9)
    entries = [decided(one, number) for one, count in ((known, 4), (first, 3), (second, 2)) for number in range(count)]
    report = replay(entries, kept(known))
    assert report.missing_snapshots == {family_of(first).digest: 3, family_of(second).digest: 2}
    assert (report.decisions, report.identical, report.not_replayed, report.differing) == (9, 4, 5, 0)
    assert not report.clean


def test_decisions_without_experiment_are_counted_apart() -> None:
    """Where nothing was chosen there is nothing to choose again."""
    entry = ledger_pb2.Decision(decision_id="d")
    entry.prediction.assignment.propensity = 1.0
    report = replay([entry], [])
    assert (report.without_experiment, report.not_replayed, report.clean) == (1, 0, True)


def test_arm_without_a_digest_is_missing_its_snapshot() -> None:
    """A record that names an arm but no snapshot cannot be checked, and says so."""
    entry = ledger_pb2.Decision(decision_id="d")
    entry.prediction.assignment.arm = "a"
    assert replay([entry], []).missing_snapshots == {0: 1}


def test_snapshot_under_a_wrong_digest_is_found() -> None:
    """An experiment that was changed after it was stored no longer has the digest that it is kept under."""
    true, changed = experiment("weighted"), experiment("weighted", salt="t")
    snapshots = kept(true)
    snapshots[0].canonical_json = changed.canonical_json()
    report = replay([decided(true, 1)], snapshots)
    recorded, replayed = family_of(true).digest, family_of(changed).digest
    assert Difference("dispatch", "acme", "d1", "snapshot_digest", str(recorded), str(replayed)) in report.differences


def test_experiments_that_share_a_family_replay_from_rows_and_attributes() -> None:
    """Tenants, layers and conditions are found again from what stands in the ledger alone."""
    schema = load("dispatch").schema
    layers = {"ui": Layer(salt="l")}
    here = {"family": "dispatch"}
    family = family_of(
        experiment("weighted", name="urgent", when='numbers["severity"] > 4.0', priority=9),
        experiment("random", name="app", when='metadata["app"] == "2" && !("beta" in metadata)', hold_out_percent=10),
        experiment("round_robin", name="own", tenant="acme", layer={"layer": "ui", "start": 0, "end": 5000}, **here),
        experiment("time", name="dispatch"),
        layers=layers,
    )
    entries = []
    for number in range(400):
        severity = 1.0 + number % 5
        packed, vector = schema.encode({"severity": severity, "hour": 3.0} | REQUIRED, {}, {})
        given = family.attributes.of({"app": str(number % 3), "other": "x"})
        entry = decided(family, number, row_of(schema, vector, "acme", given))
        entry.features, entry.schema_digest = packed, schema.digest
        entries.append(entry)
    assert {entry.prediction.assignment.experiment for entry in entries} == {"urgent", "app", "own", "dispatch"}
    assert {name for entry in entries for name in entry.attributes} == {"app"}
    report = replay(entries, kept(family))
    assert report.differences == ()
    assert (report.identical, report.clean) == (400, True)
    for entry in entries:
        entry.schema_digest += 1
    report = replay(entries, kept(family))
    assert (report.other_schema, report.not_replayed, report.clean) == (400, 400, False)


def test_family_of_another_program_is_told() -> None:
    """A decision that hangs on a condition and whose family is not declared here cannot be checked, and says so."""
    family = family_of(experiment("weighted", when="tenant == 'acme'"))
    entry = decided(family, 1)
    entry.family = "elsewhere"
    assert replay([entry], kept(family)).other_schema == 1


def test_unreadable_snapshot_counts_as_missing() -> None:
    """A form that another version wrote keeps nobody from checking the rest."""
    known, other = experiment("random"), experiment("weighted")
    snapshots = kept(known, other)
    snapshots[2].canonical_json = '{"arms": 3}'
    report = replay([decided(known, 1), decided(other, 2)], snapshots)
    assert (report.identical, report.not_replayed, report.differing) == (1, 1, 0)


def test_report_is_bounded_and_its_counts_are_not() -> None:
    """However much differs, a thousand differences are shown and all decisions counted."""
    configured = experiment("random")
    entry = decided(configured, 1)
    entry.prediction.assignment.revision = 77
    report = replay([entry] * (MOST_DIFFERENCES_KEPT + 5), kept(configured))
    assert (report.differing, len(report.differences)) == (MOST_DIFFERENCES_KEPT + 5, MOST_DIFFERENCES_KEPT)


def test_reason_of_a_newer_router_is_a_difference() -> None:
    """A number that this version does not know is told as it stands."""
    configured = experiment("random")
    entry = decided(configured, 1)
    entry.prediction.assignment.ClearField("reason")
    entry.prediction.assignment.MergeFromString(bytes([0x18, 99]))
    [found] = replay([entry], kept(configured)).differences
    assert (found.recorded, found.replayed) == ("99", "ASSIGNMENT_REASON_HASH")
