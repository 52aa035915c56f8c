"""Fills in answers, and the journal's records of them, with as few new messages as can be: it runs for every row."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Final, NamedTuple

from bentos.family import Family
from router.fallback import Fallback, valid_range
from router.strategies import Assignment
from turnout.v1 import ledger_pb2, prediction_pb2

_MOST_ASSIGNMENTS: Final = 10_000
NO_ASSIGNMENT: Final = prediction_pb2.Assignment(propensity=1.0)
"""Of all decisions without an experiment; shared, and never changed."""


class Reply(NamedTuple):
    """What a variant gave for a group of rows: values (None without any), why not, and the variant's version."""

    values: tuple[float, ...] | None
    fallback: Fallback
    version: str


class ModelAnswers:
    """Fills answers of one family that come from a model."""

    __slots__ = ("_high", "_low", "_target", "family")

    def __init__(self, family: Family) -> None:
        self.family = family
        self._low, self._high = valid_range(family.target)
        self._target = family.target

    def usable(self, value: float) -> float | None:
        """Gives a model's value as it may be answered; None when it may not."""
        # NaN fails this comparison as well.
        if not self._low <= value <= self._high:
            return None
        # Float32's rounding may lie a hair outside of the range.
        if not self._target.low <= value <= self._target.high:
            return min(max(value, self._target.low), self._target.high)
        return value

    def all_usable(self, values: Sequence[float]) -> bool:
        """Tells whether all of a model's values may be answered as they are."""
        # A sum is finite only if all values are numbers.
        return isfinite(sum(values)) and self._target.low <= min(values) and max(values) <= self._target.high

    def fill(self, answer: prediction_pb2.PredictResponse, decision_id: str, value: float) -> bool:
        """Puts a model's value into an answer that has all else; False when the value may not be used."""
        usable = self.usable(value)
        if usable is None:
            return False
        family = self.family
        answer.decision_id = decision_id
        answer.value = usable
        answer.confidence = family.confidence(usable)
        if family.levels:
            answer.level = family.level(usable)
        return True


def model_template(assignment: prediction_pb2.Assignment, variant: str, version: str) -> prediction_pb2.PredictResponse:
    """Gives what all answers of an arm have in common."""
    return prediction_pb2.PredictResponse(
        assignment=assignment,
        served_variant=variant,
        model_version=version,
        durability=prediction_pb2.DURABILITY_PENDING,
    )


class Assignments:
    """Assignments as messages. Only a few different ones exist between two changes of an experiment."""

    def __init__(self) -> None:
        self._known: dict[Assignment, prediction_pb2.Assignment] = {}

    def message(self, chosen: Assignment) -> prediction_pb2.Assignment:
        """Gives the message of an assignment; it is shared and must not be changed."""
        found = self._known.get(chosen)
        if found is None:
            found = prediction_pb2.Assignment(
                arm=chosen.arm,
                propensity=chosen.propensity,
                reason=int(chosen.reason),  # type: ignore[arg-type]
                revision=chosen.revision,
                snapshot_digest=chosen.digest,
                sequence=chosen.sequence,
                burn_in=chosen.burn_in,
                experiment=chosen.experiment,
            )
            if chosen.sequence:
                # Positions of a rotation never come again.
                return found
            if len(self._known) >= _MOST_ASSIGNMENTS:
                self._known.clear()
            self._known[chosen] = found
        return found


class Records:
    """Serializes the journal records of a group with one message that is filled again and again.

    One message a group, never one for good: a protobuf message keeps the memory of every text that was ever set in it
    until it is dropped itself.
    """

    def __init__(self, router: str, family: Family, tenant: str) -> None:
        self._record = ledger_pb2.JournalRecord()
        self.decision = self._record.decision
        self.decision.router = router
        self.decision.family = family.name
        self.decision.schema_digest = family.schema.digest
        self.decision.tenant = tenant

    def serialized(self) -> bytes:
        """Gives the record as it is filled now."""
        return self._record.SerializeToString()
