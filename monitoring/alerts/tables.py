"""Tables of alerts, silences, settings, and of states that the check cycle keeps between runs."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text

METADATA: Final = MetaData()

ALERTS: Final = Table(
    "alerts",
    METADATA,
    Column("id", Text, nullable=False, primary_key=True),
    Column("type", Text, nullable=False),
    Column("family", Text, nullable=False),
    Column("state", Integer, nullable=False),
    Column("worst", Integer, nullable=False),
    Column("severity", Integer, nullable=False),
    Column("started_at_us", BigInteger, nullable=False),
    Column("fired_at_us", BigInteger, nullable=False),
    Column("resolved_at_us", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Index("alerts_by_time", "started_at_us", "id"),
    Index("alerts_by_state", "state", "resolved_at_us"),
)
"""Every episode; `body` is the whole alert in JSON, the other columns are what questions filter by."""

ALERT_EVENTS: Final = Table(
    "alert_events",
    METADATA,
    Column("sequence", BigInteger, nullable=False, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("alert_id", Text, nullable=False),
    Column("body", Text, nullable=False),
    Index("alert_events_by_alert", "alert_id", "sequence"),
    Index("alert_events_by_time", "at_us"),
)
"""What happened; `body` is the alert after it."""

ALERT_TOLD: Final = Table(
    "alert_told",
    METADATA,
    Column("alert_id", Text, nullable=False, primary_key=True),
    Column("handler", Text, nullable=False, primary_key=True),
    Column("notice", Integer, nullable=False),
    Column("severity", Integer, nullable=False),
    Column("repeats", Integer, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)
"""What each handler knows of each alert."""

ALERT_SILENCES: Final = Table(
    "alert_silences",
    METADATA,
    Column("id", Text, nullable=False, primary_key=True),
    Column("ends_at_us", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

MONITORING_SETTINGS: Final = Table(
    "monitoring_settings",
    METADATA,
    Column("revision", BigInteger, nullable=False, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("changes", Text, nullable=False),
    Column("settings", Text, nullable=False),
)
"""Every revision, whole; `changes` is a JSON array of sentences."""

MONITORING_STATE: Final = Table(
    "monitoring_state",
    METADATA,
    Column("name", Text, nullable=False, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""What the check cycle remembers between runs, by a name that it chooses: detectors, references, sketches."""
