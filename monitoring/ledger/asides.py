"""Records that are set aside: why, and by what each is known again."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from monitoring.ledger.rows import DecisionRow, OutcomeRow, ShadowRow
from turnout.v1 import ledger_pb2

LATE: Final = "the outcome was reported over 30 days after its decision"
ALONE: Final = "no decision came for the outcome within 60 days"
PRUNED: Final = "the decision is older than those that the ledger keeps"
MAX_RAW_BYTES: Final = 16 << 10
"""A record that is set aside is kept up to this length."""
CONFLICT: Final = "the decision id was used for another request"


class Aside(NamedTuple):
    """A record to set aside, and by what it is known again."""

    fingerprint: bytes
    raw: bytes
    reason: str


def conflict_fingerprint(row: DecisionRow) -> bytes:
    """Gives by what a request is known that lost its id to another one."""
    parts = (row.tenant, row.decision_id, row.family, row.request_digest.hex())
    return hashlib.sha256("\0".join(("conflict", *parts)).encode()).digest()[:16]


def decision_aside(row: DecisionRow, reason: str) -> Aside:
    """Gives a decision as a record to set aside."""
    raw = ledger_pb2.JournalRecord(decision=ledger_pb2.Decision.FromString(row.record)).SerializeToString()
    return Aside(hashlib.sha256(raw).digest()[:16], raw, reason)


def outcome_aside(row: OutcomeRow, reason: str) -> Aside:
    """Gives an outcome as a record to set aside."""
    outcome = ledger_pb2.Outcome(
        tenant=row.tenant,
        decision_id=row.decision_id,
        recorded_at_unix_us=row.recorded_at_us,
        occurred_at_unix_us=row.occurred_at_us,
        value=row.value,
        cost=row.cost,
    )
    raw = ledger_pb2.JournalRecord(outcome=outcome).SerializeToString()
    return Aside(hashlib.sha256(raw).digest()[:16], raw, reason)


def shadow_aside(row: ShadowRow, reason: str) -> Aside:
    """Gives a shadow's answer as a record to set aside."""
    raw = ledger_pb2.JournalRecord(shadow_answer=ledger_pb2.ShadowAnswer.FromString(row.record)).SerializeToString()
    return Aside(hashlib.sha256(raw).digest()[:16], raw, reason)


def conflict_aside(row: DecisionRow) -> Aside:
    """Gives a request that lost its id to another one as a record to set aside."""
    record = ledger_pb2.JournalRecord(decision=ledger_pb2.Decision.FromString(row.record))
    return Aside(conflict_fingerprint(row), record.SerializeToString(), CONFLICT)
