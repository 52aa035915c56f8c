"""Fills in answers, and the journal's records of them, with as few new messages as can be: it runs for every row."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Final, NamedTuple

from bentos.family import Family
from router.resilience.reasons import Fallback
from router.resilience.validity import valid_range
from router.strategies import Assignment
from turnout.v1 import ledger_pb2, prediction_pb2

LONGEST_US: Final = 0xFFFFFFFF
"""The largest duration, in microseconds, that a message holds."""
_MOST_ASSIGNMENTS: Final = 10_000
NO_ASSIGNMENT: Final = prediction_pb2.Assignment(propensity=1.0)
"""Of all decisions without an experiment; shared, and never changed."""


class Attempt(NamedTuple):
    """One request to a variant, as in turnout.v1.Attempt; `failure` is NONE for the one that answered."""

    variant: str
    failure: Fallback
    began_after_us: int
    duration_us: int
    hedge: bool


class Reply(NamedTuple):
    """What a variant gave for a group of rows."""

    values: tuple[float, ...] | None
    """One a row; None without any."""
    fallback: Fallback
    """Why it was not the assigned arm that answered."""
    version: str
    """Of the variant that answered."""
    variant: str = ""
    """The variant that answered."""
    attempts: tuple[Attempt, ...] = ()
    """Empty when the assigned arm answered at the first attempt, and when nobody was asked."""
    outside: frozenset[int] = frozenset()
    """Rows that do not resemble what the variant was trained on: the rules answer these."""
    min_confidence: float = 0.0
    """Answers with less confidence are replaced by the rules'."""

    @property
    def plain(self) -> bool:
        """Whether values may be answered whatever row they belong to and however unsure they are."""
        return not self.outside and not self.min_confidence


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

    def judge(self, reply: Reply, row: int) -> float | Fallback:
        """Gives the value with which a variant may answer a row, or why the rules do."""
        if reply.values is None:
            return reply.fallback
        value = self.usable(reply.values[row])
        if value is None:
            return Fallback.INVALID
        if row in reply.outside:
            return Fallback.OUT_OF_DISTRIBUTION
        if reply.min_confidence and self.family.confidence(value) < reply.min_confidence:
            return Fallback.LOW_CONFIDENCE
        return value

    def all_usable(self, values: Sequence[float]) -> bool:
        """Tells whether all of a model's values may be answered as they are."""
        # A sum is finite only if all values are numbers.
        return isfinite(sum(values)) and self._target.low <= min(values) and max(values) <= self._target.high

    def filled(
        self, template: prediction_pb2.PredictResponse, decision_id: str, value: float
    ) -> prediction_pb2.PredictResponse:
        """Gives an answer with a usable value, and all else as in the template."""
        family = self.family
        answer = prediction_pb2.PredictResponse()
        answer.CopyFrom(template)
        answer.decision_id = decision_id
        answer.value = value
        answer.confidence = family.confidence(value)
        if family.levels:
            answer.level = family.level(value)
        return answer


def model_template(assignment: prediction_pb2.Assignment, reply: Reply) -> prediction_pb2.PredictResponse:
    """Gives what all answers of a variant to a group have in common."""
    template = prediction_pb2.PredictResponse(
        assignment=assignment,
        served_variant=reply.variant,
        model_version=reply.version,
        durability=prediction_pb2.DURABILITY_PENDING,
    )
    if reply.fallback:
        template.fallback = int(reply.fallback)  # type: ignore[assignment]
    if reply.attempts:
        note_attempts(template, reply.attempts)
    return template


def note_attempts(answer: prediction_pb2.PredictResponse, attempts: Sequence[Attempt]) -> None:
    """Puts into an answer what was asked on the way to it."""
    for one in attempts:
        answer.attempts.add(
            variant=one.variant,
            failure=int(one.failure),
            began_after_us=min(one.began_after_us, LONGEST_US),
            duration_us=min(one.duration_us, LONGEST_US),
            hedge=one.hedge,
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
