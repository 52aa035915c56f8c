"""Experiments: what runs, its history, layers, what turnout.yaml said, and the routers that follow."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "experiment_set",
        sa.Column("singleton", sa.Integer, nullable=False, primary_key=True, autoincrement=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("changed_at_us", sa.BigInteger, nullable=False),
    )
    for thing in ("experiment", "layer"):
        op.create_table(
            f"{thing}s",
            sa.Column("name", sa.Text, nullable=False, primary_key=True),
            sa.Column("revision", sa.BigInteger, nullable=False),
            sa.Column("definition", sa.Text),
        )
        op.create_table(
            f"{thing}_revisions",
            sa.Column("name", sa.Text, nullable=False),
            sa.Column("revision", sa.BigInteger, nullable=False),
            sa.Column("version", sa.BigInteger, nullable=False),
            sa.Column("definition", sa.Text),
            sa.Column("who", sa.Text, nullable=False),
            sa.Column("at_us", sa.BigInteger, nullable=False),
            sa.Column("why", sa.Text, nullable=False),
            sa.Column("changes", sa.Text, nullable=False),
            sa.PrimaryKeyConstraint("name", "revision"),
        )
    op.create_table(
        "declared",
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("kind", "name"),
    )
    op.create_table(
        "router_status",
        sa.Column("router", sa.Text, nullable=False, primary_key=True),
        sa.Column("applied_version", sa.BigInteger, nullable=False),
        sa.Column("lag_us", sa.BigInteger),
        sa.Column("refusal", sa.Text, nullable=False),
        sa.Column("heard_at_us", sa.BigInteger, nullable=False),
    )
