"""Replay: chooses the arm of every recorded decision again and tells where the record says something else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from bentos.family import Family
from bentos.family import load as load_family
from router.conditions import row_of
from router.dry_run import assign_as_recorded
from router.recorded_sets import RecordedSets
from router.strategies import Assignment
from router.strategies.family import FamilyExperiments
from services.runtime.errors import NotFound
from services.runtime.targeting import Row
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
    """Decisions whose snapshot is missing, or whose row this program cannot read."""
    missing_snapshots: Mapping[int, int]
    """Decisions by the digest of their missing snapshot."""
    other_schema: int
    """Decisions that hang on a condition and whose row was written for another schema than this program's."""
    differences: tuple[Difference, ...]
    """The first 1 000 differences, in the decisions' order."""

    @property
    def clean(self) -> bool:
        """Tells whether every decision that had an experiment was replayed and came out the same."""
        return not self.differing and not self.not_replayed


def replay(
    entries: Iterable[ledger_pb2.Decision],
    snapshots: Iterable[ledger_pb2.ExperimentSnapshot],
    *,
    family_of: Callable[[str], Family] = load_family,
) -> ReplayReport:
    """Finds the experiment of every decision again, and chooses its arm, from what it was made under.

    Args:
        entries: Decisions of the ledger, in any order; read once, so they may be streamed.
        snapshots: Experiments and sets of the ledger. One that was changed after it was stored shows as a difference
            in `snapshot_digest`.
        family_of: Gives a family by name or raises NotFound; for the rows that conditions look at.
    """
    again = _Again(RecordedSets(snapshots), family_of)
    differences: list[Difference] = []
    decisions = identical = without = 0
    for decision in entries:
        decisions += 1
        recorded = decision.prediction.assignment
        if not recorded.snapshot_digest and not recorded.arm:
            without += 1
            continue
        chosen = again.choose(decision)
        if chosen is None:
            continue
        found = list(_differences(decision, chosen))
        identical += not found
        differences += found[: MOST_DIFFERENCES_KEPT - len(differences)]
    not_replayed = again.missing.total() + again.other_schema
    return ReplayReport(
        decisions=decisions,
        identical=identical,
        differing=decisions - identical - without - not_replayed,
        without_experiment=without,
        not_replayed=not_replayed,
        missing_snapshots=dict(again.missing),
        other_schema=again.other_schema,
        differences=tuple(differences),
    )


class _Again:
    """Chooses recorded decisions again, and counts those for which it cannot."""

    def __init__(self, sets: RecordedSets, family_of: Callable[[str], Family]) -> None:
        self.missing: Counter[int] = Counter()
        self.other_schema = 0
        self._sets = sets
        self._family_of = family_of
        self._families: dict[str, Family | None] = {}

    def choose(self, decision: ledger_pb2.Decision) -> Assignment | None:
        recorded = decision.prediction.assignment
        experiments = self._sets.compiled(recorded.snapshot_digest)
        if experiments is None:
            self.missing[recorded.snapshot_digest] += 1
            return None
        row = self._row(decision, experiments)
        if row is None:
            self.other_schema += 1
            return None
        return assign_as_recorded(
            experiments,
            unit_id=decision.unit_id,
            decision_id=decision.decision_id,
            tenant=decision.tenant,
            region=decision.region,
            at_unix_us=decision.assigned_at_unix_us,
            sequence=recorded.sequence,
            row=row,
        )

    def _row(self, decision: ledger_pb2.Decision, experiments: FamilyExperiments) -> Row | None:
        if not experiments.conditional:
            return _NOT_LOOKED_AT
        name = decision.family
        if name not in self._families:
            try:
                self._families[name] = self._family_of(name)
            except NotFound:
                self._families[name] = None
        family = self._families[name]
        if family is None or family.schema.digest != decision.schema_digest:
            return None
        vector = family.schema.decode(decision.features)
        return row_of(family.schema, vector, decision.tenant, dict(decision.attributes))


_NOT_LOOKED_AT: Final = Row("", {}, {}, {}, {})


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
        "experiment": (recorded.experiment, replayed.experiment),
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
