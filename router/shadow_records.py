"""Records of what shadows answered, for the journal: what nobody waits for, and what may be left out under pressure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bentos.family import Family
from router.answers import LONGEST_US
from router.resilience.reasons import Fallback
from router.routing import Route
from turnout.v1 import ledger_pb2


class Copy(NamedTuple):
    """A row that was answered."""

    route: Route
    experiment: str
    tenant: str
    decision_id: str
    packed: bytes
    at_unix_us: int
    """The instant that the assignment was made for."""
    value: float
    """What the caller was told."""
    confidence: float
    served_variant: str
    """Who told it."""
    latency_us: int
    """How long the caller waited for it."""


class Compared(NamedTuple):
    """What a shadow gave for a copy."""

    copy: Copy
    value: float | None
    """None when it gave nothing that a caller could have been told."""
    agrees: bool
    failure: Fallback


def records(family: Family, variant: str, version: str, answers: Sequence[Compared], *, latency_us: int) -> list[bytes]:
    """Gives the journal's records of the answers to one call.

    Args:
        family: whose rows they were.
        variant: the shadow.
        version: what it says that its version is; empty when it failed.
        answers: one a copy.
        latency_us: time that the call took, in microseconds.
    """
    # One message for all, which goes with them: it would keep the memory of every text that was ever set in it.
    record = ledger_pb2.JournalRecord()
    shadow = record.shadow_answer
    shadow.family, shadow.variant, shadow.model_version = family.name, variant, version
    shadow.latency_us = min(latency_us, LONGEST_US)
    serialized = []
    for copy, value, agrees, failure in answers:
        shadow.decision_id = copy.decision_id
        shadow.tenant = copy.tenant
        shadow.experiment = copy.experiment
        shadow.assigned_at_unix_us = copy.at_unix_us
        shadow.value = 0.0 if value is None else value
        shadow.confidence = 0.0 if value is None else family.confidence(value)
        shadow.failure = int(failure)  # type: ignore[assignment]
        shadow.agrees = agrees
        shadow.told_value = copy.value
        shadow.told_confidence = copy.confidence
        shadow.served_variant = copy.served_variant
        shadow.told_latency_us = min(copy.latency_us, LONGEST_US)
        serialized.append(record.SerializeToString())
    return serialized
