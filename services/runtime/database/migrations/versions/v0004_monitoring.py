"""Monitoring: alerts, their events, what handlers know of them, silences, settings, and the check cycle's memory."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "alerts",
        sa.Column("id", sa.Text, nullable=False, primary_key=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("family", sa.Text, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("worst", sa.Integer, nullable=False),
        sa.Column("severity", sa.Integer, nullable=False),
        sa.Column("started_at_us", sa.BigInteger, nullable=False),
        sa.Column("fired_at_us", sa.BigInteger, nullable=False),
        sa.Column("resolved_at_us", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("alerts_by_time", "alerts", ["started_at_us", "id"])
    op.create_index("alerts_by_state", "alerts", ["state", "resolved_at_us"])
    op.create_table(
        "alert_events",
        sa.Column("sequence", sa.BigInteger, nullable=False, primary_key=True, autoincrement=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Integer, nullable=False),
        sa.Column("alert_id", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("alert_events_by_alert", "alert_events", ["alert_id", "sequence"])
    op.create_index("alert_events_by_time", "alert_events", ["at_us"])
    op.create_table(
        "alert_told",
        sa.Column("alert_id", sa.Text, nullable=False, primary_key=True),
        sa.Column("handler", sa.Text, nullable=False, primary_key=True),
        sa.Column("notice", sa.Integer, nullable=False),
        sa.Column("severity", sa.Integer, nullable=False),
        sa.Column("repeats", sa.Integer, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "alert_silences",
        sa.Column("id", sa.Text, nullable=False, primary_key=True),
        sa.Column("ends_at_us", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "monitoring_settings",
        sa.Column("revision", sa.BigInteger, nullable=False, primary_key=True, autoincrement=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("changes", sa.Text, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
    )
    op.create_table(
        "monitoring_state",
        sa.Column("name", sa.Text, nullable=False, primary_key=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
