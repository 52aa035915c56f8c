"""The ledger's tables, in portable SQL, and how protobuf's unsigned numbers fit into signed columns."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

SCHEMA_VERSION: Final = 1

METADATA: Final = MetaData()

DECISIONS: Final = Table(
    "decisions",
    METADATA,
    Column("tenant", Text, nullable=False),
    Column("decision_id", Text, nullable=False),
    Column("family", Text, nullable=False),
    Column("assigned_at_us", BigInteger, nullable=False),
    Column("arm", Text, nullable=False),
    Column("served_variant", Text, nullable=False),
    Column("fallback", Integer, nullable=False),
    Column("value", Double, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("propensity", Double, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("snapshot_digest", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("latency_us", BigInteger, nullable=False),
    Column("request_digest", LargeBinary, nullable=False),
    Column("record", LargeBinary, nullable=False),
    # The id comes first, so that a decision is found without its tenant too.
    PrimaryKeyConstraint("decision_id", "tenant"),
    Index("decisions_by_time", "assigned_at_us", "tenant", "decision_id"),
)
"""One row a decision; `record` is the whole Decision message."""

OUTCOMES: Final = Table(
    "outcomes",
    METADATA,
    Column("tenant", Text, nullable=False),
    Column("decision_id", Text, nullable=False),
    Column("recorded_at_us", BigInteger, nullable=False),
    Column("occurred_at_us", BigInteger, nullable=False),
    Column("value", Double, nullable=False),
    # Copied from the decision when both are there, so that a summary needs no join; NULL while the outcome waits.
    Column("family", Text),
    Column("arm", Text),
    Column("assigned_at_us", BigInteger),
    PrimaryKeyConstraint("decision_id", "tenant"),
)
"""The newest outcome of each decision."""

SNAPSHOTS: Final = Table(
    "snapshots",
    METADATA,
    Column("family", Text, nullable=False),
    Column("digest", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("canonical_json", Text, nullable=False),
    Column("applied_at_us", BigInteger, nullable=False),
    Column("router", Text, nullable=False),
    PrimaryKeyConstraint("family", "digest"),
)
"""Each experiment that was ever applied, as the first router applied it."""

SET_ASIDE: Final = Table(
    "set_aside",
    METADATA,
    Column("fingerprint", LargeBinary, nullable=False, primary_key=True),
    Column("raw", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("router", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)
"""Records that could not be stored, each once."""

COUNTERS: Final = Table(
    "counters",
    METADATA,
    Column("name", Text, nullable=False, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""Numbers that move in the same transaction as the rows which they count, and the schema's version."""

_SIGN: Final = 1 << 63
_WRAP: Final = 1 << 64


def to_signed(number: int) -> int:
    """Maps an unsigned 64-bit number onto the signed one with the same bits; SQL knows signed integers only."""
    return number - _WRAP if number >= _SIGN else number


def from_signed(number: int) -> int:
    """Undoes `to_signed`."""
    return number + _WRAP if number < 0 else number
