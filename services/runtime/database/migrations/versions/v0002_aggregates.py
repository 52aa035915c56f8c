"""Running aggregates: cells, their windows, and the windows of features; costs of outcomes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Makes the tables and columns. Rows that are there already are added up when the ledger opens."""
    op.add_column("decisions", sa.Column("cell", sa.Integer))
    op.add_column("outcomes", sa.Column("cost", sa.Double))
    waiting = sa.text("family IS NULL")
    op.create_index(
        "outcomes_that_wait", "outcomes", ["recorded_at_us"], sqlite_where=waiting, postgresql_where=waiting
    )
    op.create_table(
        "cells",
        sa.Column("cell", sa.Integer, nullable=False, primary_key=True, autoincrement=False),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("family", "experiment", "arm", "variant", "tenant", "population")
        ),
    )
    op.create_table(
        "windows",
        sa.Column("cell", sa.Integer, nullable=False),
        sa.Column("length_us", sa.BigInteger, nullable=False),
        sa.Column("start_us", sa.BigInteger, nullable=False),
        *(
            sa.Column(name, sa.LargeBinary, nullable=False)
            for name in ("counts", "outcome_sums", "calibration", "sums", "latency", "value", "confidence")
        ),
        sa.PrimaryKeyConstraint("cell", "length_us", "start_us"),
    )
    op.create_index("windows_by_time", "windows", ["length_us", "start_us"])
    op.create_table(
        "feature_sets",
        sa.Column("feature_set", sa.Integer, nullable=False, primary_key=True, autoincrement=False),
        sa.Column("family", sa.Text, nullable=False),
        sa.Column("variant", sa.Text, nullable=False),
        sa.Column("schema_digest", sa.BigInteger, nullable=False),
        sa.Column("features", sa.Text, nullable=False),
    )
    op.create_table(
        "feature_windows",
        sa.Column("feature_set", sa.Integer, nullable=False),
        sa.Column("length_us", sa.BigInteger, nullable=False),
        sa.Column("start_us", sa.BigInteger, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("statistics", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("feature_set", "length_us", "start_us"),
    )
    op.create_index("feature_windows_by_time", "feature_windows", ["length_us", "start_us"])
