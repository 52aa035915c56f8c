"""The ledger: decisions, outcomes, snapshots, what was set aside, and counters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "decisions",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("decision_id", sa.Text, nullable=False),
        sa.Column("family", sa.Text, nullable=False),
        sa.Column("assigned_at_us", sa.BigInteger, nullable=False),
        sa.Column("arm", sa.Text, nullable=False),
        sa.Column("served_variant", sa.Text, nullable=False),
        sa.Column("fallback", sa.Integer, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("confidence", sa.Double, nullable=False),
        sa.Column("propensity", sa.Double, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("snapshot_digest", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("latency_us", sa.BigInteger, nullable=False),
        sa.Column("request_digest", sa.LargeBinary, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("decision_id", "tenant"),
    )
    op.create_index("decisions_by_time", "decisions", ["assigned_at_us", "tenant", "decision_id"])
    op.create_table(
        "outcomes",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("decision_id", sa.Text, nullable=False),
        sa.Column("recorded_at_us", sa.BigInteger, nullable=False),
        sa.Column("occurred_at_us", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("family", sa.Text),
        sa.Column("arm", sa.Text),
        sa.Column("assigned_at_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("decision_id", "tenant"),
    )
    op.create_table(
        "snapshots",
        sa.Column("family", sa.Text, nullable=False),
        sa.Column("digest", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("canonical_json", sa.Text, nullable=False),
        sa.Column("applied_at_us", sa.BigInteger, nullable=False),
        sa.Column("router", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("family", "digest"),
    )
    op.create_table(
        "set_aside",
        sa.Column("fingerprint", sa.LargeBinary, nullable=False, primary_key=True),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("router", sa.Text, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.Text, nullable=False, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
