"""Replay: chooses the arm of every recorded decision again and tells where the record says something else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from router.strategies import Assignment, Snapshot, assign, compile_experiment
from services.runtime.experiment import Experiment
from turnout.v1 import ledger_pb2, prediction_pb2

MOST_DIFFERENCES_KEPT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one decision that a replay chooses otherwise. Values are shown as text."""

    family: str
    tenant: str
    decision_id: str
    field: str
    """Name of the field of turnout.v1.Assignment."""
    recorded: str
    replayed: str


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay found. Every decision counts in exactly one of the four numbers that follow `decisions`."""

    decisions: int
    identical: int
    """Decisions whose every field came out the same, the propensity to the bit."""
    differing: int
    without_experiment: int
    """Decisions of families that had no experiment: the rules answered and nothing was chosen."""
    not_replayed: int
    """Decisions whose snapshot is missing."""
    missing_snapshots: Mapping[int, int]
    """Decisions by the digest of their missing snapshot."""
    differences: tuple[Difference, ...]
    """The first 1 000 differences, in the decisions' order."""

    @property
    def clean(self) -> bool:
        """Tells whether every decision that had an experiment was replayed and came out the same."""
        return not self.differing and not self.not_replayed


def replay(entries: Iterable[ledger_pb2.Decision], snapshots: Mapping[int, Experiment]) -> ReplayReport:
    """Chooses the arm of every decision again, from the experiment that it was made under.

    Args:
        entries: Decisions of the ledger, in any order; read once, so they may be streamed.
        snapshots: Experiments by the digest that the decisions carry. A snapshot kept under another digest than its
            own shows as a difference in `snapshot_digest`.
    """
    compiled: dict[int, Snapshot] = {}
    missing: Counter[int] = Counter()
    differences: list[Difference] = []
    decisions = identical = without = 0
    for decision in entries:
        decisions += 1
        recorded = decision.prediction.assignment
        digest = recorded.snapshot_digest
        if not digest and not recorded.arm:
            without += 1
            continue
        if digest not in compiled:
            if digest not in snapshots:
                missing[digest] += 1
                continue
            compiled[digest] = compile_experiment(snapshots[digest])
        found = list(_differences(decision, _assign_again(decision, compiled[digest])))
        identical += not found
        differences += found[: MOST_DIFFERENCES_KEPT - len(differences)]
    not_replayed = missing.total()
    return ReplayReport(
        decisions=decisions,
        identical=identical,
        differing=decisions - identical - without - not_replayed,
        without_experiment=without,
        not_replayed=not_replayed,
        missing_snapshots=dict(missing),
        differences=tuple(differences),
    )


def _assign_again(decision: ledger_pb2.Decision, snapshot: Snapshot) -> Assignment:
    return assign(
        snapshot,
        unit_id=decision.unit_id,
        decision_id=decision.decision_id,
        tenant=decision.tenant,
        region=decision.region,
        at_unix_us=decision.assigned_at_unix_us,
        sequence=decision.prediction.assignment.sequence,
    )


def _differences(decision: ledger_pb2.Decision, replayed: Assignment) -> Iterator[Difference]:
    recorded = decision.prediction.assignment
    pairs: dict[str, tuple[object, object]] = {
        "arm": (recorded.arm, replayed.arm),
        "propensity": (recorded.propensity, replayed.propensity),
        "reason": (_reason(recorded.reason), _reason(replayed.reason)),
        "revision": (recorded.revision, replayed.revision),
        "snapshot_digest": (recorded.snapshot_digest, replayed.digest),
        "sequence": (recorded.sequence, replayed.sequence),
        "burn_in": (recorded.burn_in, replayed.burn_in),
    }
    for field, (before, now) in pairs.items():
        if before != now:
            yield Difference(
                family=decision.family,
                tenant=decision.tenant,
                decision_id=decision.decision_id,
                field=field,
                recorded=str(before),
                replayed=str(now),
            )


def _reason(number: int) -> str:
    # A reason that a newer router wrote has no name here, and is a difference, not an error.
    known = prediction_pb2.AssignmentReason.DESCRIPTOR.values_by_number.get(number)
    return known.name if known else str(number)
