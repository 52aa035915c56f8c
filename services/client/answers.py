"""What a caller gets back: plain frozen values, so that nobody above the client needs to know the messages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from turnout.v1.prediction_pb2 import ExplainResponse, PredictBatchResponse, PredictResponse


class FallbackReason(IntEnum):
    """Why the rules answered instead of the assigned arm; numbers as in `turnout.v1.FallbackReason`."""

    UNKNOWN = -1
    """A reason that a newer router knows and this client does not."""
    NONE = 0
    """The arm answered."""
    UNAVAILABLE = 1
    CONNECTION = 2
    TIMEOUT = 3
    ERROR = 4
    INVALID = 5
    OVERLOADED = 6
    NO_TIME = 7
    ROUTER_AWAY = 8
    """The router itself was away: this client answered with its own copy of the rules."""
    CANCELLED = 9
    LOW_CONFIDENCE = 10
    OUT_OF_DISTRIBUTION = 11
    BREAKER_OPEN = 12
    CONCURRENCY = 13
    ALERT = 14
    COLD_START = 15
    SHED = 16


class AssignmentReason(IntEnum):
    """Why an arm was chosen; numbers as in `turnout.v1.AssignmentReason`."""

    UNKNOWN = -1
    """A reason that a newer router knows and this client does not."""
    NONE = 0
    """There was no assignment."""
    HASH = 1
    ROTATION = 2
    BLOCK = 3
    PAUSED = 4
    OVERRIDE = 5
    HOLD_OUT = 6
    CONCLUDED = 7


class Durability(IntEnum):
    """Where a record is; numbers as in `turnout.v1.Durability`."""

    NONE = 0
    """Nowhere: nothing was sent, because the decision is known to this client only."""
    PENDING = 1
    """With the router: survives the router's death, not yet a power cut."""
    DURABLE = 2
    """On stable storage."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """An arm chosen for a unit, and how; an empty `arm` means that the family has no experiment."""

    arm: str
    propensity: float
    """Probability in (0, 1] with which the arm was chosen; 0 without an assignment."""
    reason: AssignmentReason
    revision: int
    snapshot_digest: int
    sequence: int
    burn_in: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one row."""

    decision_id: str
    value: float
    """The target: a probability in [0, 1], or a number in the target's unit."""
    confidence: float
    """How sure the answer is, in [0, 1]."""
    level: str
    """The family's level for this value; empty when the family has none."""
    assignment: Assignment
    served_variant: str
    model_version: str
    fallback: FallbackReason
    durability: Durability
    reasons: tuple[str, ...]
    """Reasons of the rules, most important first; empty when a model answered."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """Share of one feature in the difference between an answer and the reference answer, in the target's unit."""

    feature: str
    value: str
    contribution: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a variant answers a row as it does: value − base_value is the sum of all contributions."""

    value: float
    base_value: float
    variant: str
    model_version: str
    contributions: tuple[Contribution, ...]
    reasons: tuple[str, ...]


# Look-ups by number: an enum's own constructor raises for a number that a newer router may send, and is slower.
_FALLBACKS: Final = {reason.value: reason for reason in FallbackReason}
_REASONS: Final = {reason.value: reason for reason in AssignmentReason}
_DURABILITIES: Final = {durability.value: durability for durability in Durability}
NO_ASSIGNMENT: Final = Assignment("", 0.0, AssignmentReason.NONE, 0, 0, 0, burn_in=False)


def answer_of(message: PredictResponse) -> Answer:
    """Turns the router's message into an Answer."""
    assignment = NO_ASSIGNMENT
    if message.HasField("assignment"):
        chosen = message.assignment
        assignment = Assignment(
            chosen.arm,
            chosen.propensity,
            _REASONS.get(chosen.reason, AssignmentReason.UNKNOWN),
            chosen.revision,
            chosen.snapshot_digest,
            chosen.sequence,
            chosen.burn_in,
        )
    return Answer(
        message.decision_id,
        message.value,
        message.confidence,
        message.level,
        assignment,
        message.served_variant,
        message.model_version,
        _FALLBACKS.get(message.fallback, FallbackReason.UNKNOWN),
        durability_of(message.durability),
        tuple(message.reasons),
    )


def answers_of(message: PredictBatchResponse, rows: int) -> tuple[Answer, ...]:
    """Turns the router's message into one Answer a row.

    Raises:
        ValueError: the message does not answer that many rows.
    """
    columns = (message.decision_ids, message.values, message.confidences, message.shared_places)
    shared = [answer_of(one) for one in message.shared]
    reasons = {one.row: tuple(one.reasons) for one in message.reasons}
    if any(len(column) != rows for column in columns) or max(message.shared_places, default=0) >= len(shared):
        raise ValueError(f"the message does not answer {rows} rows")
    return tuple(
        replace(
            shared[place],
            decision_id=decision_id,
            value=value,
            confidence=confidence,
            reasons=reasons.get(row, ()),
        )
        for row, (decision_id, value, confidence, place) in enumerate(zip(*columns, strict=True))
    )


def durability_of(number: int) -> Durability:
    """Turns a durability's number into a Durability; one that is not known counts as PENDING, the weaker promise."""
    return _DURABILITIES.get(number, Durability.PENDING)


def explanation_of(message: ExplainResponse) -> Explanation:
    """Turns the router's message into an Explanation."""
    return Explanation(
        message.value,
        message.base_value,
        message.variant,
        message.model_version,
        tuple(Contribution(c.feature, c.value, c.contribution) for c in message.contributions),
        tuple(message.reasons),
    )
