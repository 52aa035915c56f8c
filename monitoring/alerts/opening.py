"""Takes up the alerts where the database has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection

from monitoring.alerts import reading, writing
from monitoring.alerts.book import MAX_RESOLVED, Book, Rules
from monitoring.alerts.engine import AlertEngine
from monitoring.alerts.kinds import SECOND_US
from monitoring.alerts.metrics import AlertMetrics
from monitoring.alerts.silences import LONGEST_US
from services.runtime.database import Database

_REMEMBERED_US: Final = 8 * 86_400 * SECOND_US
"""Longer than a handler may be tried, and than damping and hold-downs remember."""


async def open_alerts(
    database: Database,
    *,
    rules: Callable[[], Rules],
    now_us: Callable[[], int],
    new_id: Callable[[], str],
    metrics: AlertMetrics,
) -> AlertEngine:
    """Takes up the alerts where the database has them.

    Args:
        database: the hub's.
        rules: how each type behaves now; asked at each look.
        now_us: microseconds since 1970-01-01T00:00Z.
        new_id: makes ids that rise with time.
        metrics: what Prometheus is told.

    Raises:
        Unavailable: the database cannot be read.
    """

    def load(connection: Connection) -> AlertEngine:
        since_us = now_us() - _REMEMBERED_US
        alerts = writing.load_alerts(connection, resolved_since_us=since_us, limit=MAX_RESOLVED)
        return AlertEngine(
            database,
            Book(alerts, sequence=reading.newest_sequence(connection), new_id=new_id),
            silences=writing.load_silences(connection, ended_since_us=now_us() - LONGEST_US),
            told=writing.load_told(connection, [alert.id for alert in alerts]),
            rules=rules,
            now_us=now_us,
            new_id=new_id,
            metrics=metrics,
        )

    return await database.read(load)
