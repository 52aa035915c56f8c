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
    text,
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
    # Where the aggregates count it; NULL until then, which only rows from before there were aggregates are.
    Column("cell", Integer),
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
    Column("cost", Double),
    PrimaryKeyConstraint("decision_id", "tenant"),
    # Holds only those that wait.
    Index(
        "outcomes_that_wait",
        "recorded_at_us",
        sqlite_where=text("family IS NULL"),
        postgresql_where=text("family IS NULL"),
    ),
)
"""The newest outcome of each decision."""

SHADOWS: Final = Table(
    "shadow_answers",
    METADATA,
    Column("tenant", Text, nullable=False),
    Column("decision_id", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("family", Text, nullable=False),
    Column("assigned_at_us", BigInteger, nullable=False),
    Column("failure", Integer, nullable=False),
    Column("value", Double, nullable=False),
    Column("told_value", Double, nullable=False),
    Column("record", LargeBinary, nullable=False),
    # Where the aggregates count it, and where they count what the caller was told.
    Column("cell", Integer, nullable=False),
    Column("told_cell", Integer, nullable=False),
    PrimaryKeyConstraint("decision_id", "tenant", "variant"),
    Index("shadow_answers_by_time", "assigned_at_us"),
)
"""One row for each shadow that answered to a decision; `record` is the whole ShadowAnswer message."""

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

RANKINGS: Final = Table(
    "rankings",
    METADATA,
    Column("tenant", Text, nullable=False),
    Column("family", Text, nullable=False),
    Column("unit_id", Text, nullable=False),
    # The last of its candidates to be assigned: retention removes a ranking with it.
    Column("newest_at_us", BigInteger, nullable=False),
    Column("candidates", LargeBinary, nullable=False),
    PrimaryKeyConstraint("unit_id", "family", "tenant"),
    Index("rankings_by_time", "newest_at_us"),
)
"""The candidates of each ranking, as JSON: see `monitoring/ledger/rankings.py`."""

COUNTERS: Final = Table(
    "counters",
    METADATA,
    Column("name", Text, nullable=False, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""Numbers that move in the same transaction as the rows which they count, and the schema's version."""

CELLS: Final = Table(
    "cells",
    METADATA,
    Column("cell", Integer, nullable=False, primary_key=True, autoincrement=False),
    Column("family", Text, nullable=False),
    Column("experiment", Text, nullable=False),
    Column("arm", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("population", Text, nullable=False),
)
"""What is counted apart: see `monitoring/ledger/cells.py`."""

WINDOWS: Final = Table(
    "windows",
    METADATA,
    Column("cell", Integer, nullable=False),
    Column("length_us", BigInteger, nullable=False),
    Column("start_us", BigInteger, nullable=False),
    Column("counts", LargeBinary, nullable=False),
    Column("outcome_sums", LargeBinary, nullable=False),
    Column("calibration", LargeBinary, nullable=False),
    Column("sums", LargeBinary, nullable=False),
    Column("latency", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("confidence", LargeBinary, nullable=False),
    PrimaryKeyConstraint("cell", "length_us", "start_us"),
    Index("windows_by_time", "length_us", "start_us"),
)
"""Statistics of a cell in a window: see `monitoring/ledger/statistics.py`."""

FEATURE_SETS: Final = Table(
    "feature_sets",
    METADATA,
    Column("feature_set", Integer, nullable=False, primary_key=True, autoincrement=False),
    Column("family", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("schema_digest", BigInteger, nullable=False),
    Column("features", Text, nullable=False),
)
"""Whose features are counted apart; `features` is the JSON list of [name, number of codes or null]."""

FEATURE_WINDOWS: Final = Table(
    "feature_windows",
    METADATA,
    Column("feature_set", Integer, nullable=False),
    Column("length_us", BigInteger, nullable=False),
    Column("start_us", BigInteger, nullable=False),
    Column("row_count", BigInteger, nullable=False),
    Column("statistics", LargeBinary, nullable=False),
    PrimaryKeyConstraint("feature_set", "length_us", "start_us"),
    Index("feature_windows_by_time", "length_us", "start_us"),
)
"""Statistics of a variant's features in a window: see `monitoring/ledger/feature_statistics.py`."""

_SIGN: Final = 1 << 63
_WRAP: Final = 1 << 64


def to_signed(number: int) -> int:
    """Maps an unsigned 64-bit number onto the signed one with the same bits; SQL knows signed integers only."""
    return number - _WRAP if number >= _SIGN else number


def from_signed(number: int) -> int:
    """Undoes `to_signed`."""
    return number + _WRAP if number < 0 else number
