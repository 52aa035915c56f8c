"""Questions to the history of alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, case, func, or_, select

from monitoring.alerts.alert import Alert, Event
from monitoring.alerts.kinds import AlertType, Severity, State
from monitoring.alerts.tables import ALERT_EVENTS, ALERTS
from monitoring.alerts.writing import read_alert, read_event

MAX_EVENTS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which alerts. Empty means all."""

    history: bool = True
    family: str = ""
    types: tuple[AlertType, ...] = ()
    min_severity: Severity | None = None
    states: tuple[State, ...] = ()
    since_us: int = 0

    def takes(self, alert: Alert) -> bool:
        """Tells whether an alert in memory is asked for; the worst severity that it reached counts."""
        return (
            (self.history or alert.active)
            and (not self.family or alert.labels.get("family", "") == self.family)
            and (not self.types or alert.type in self.types)
            and (self.min_severity is None or alert.worst >= self.min_severity)
            and (not self.states or alert.state in self.states)
            and alert.started_at_us >= self.since_us
        )


@dataclass(frozen=True, slots=True)
class Count:
    """Alerts of one type and severity."""

    type: AlertType
    severity: Severity
    firing: int
    resolved: int
    seconds: float
    """Time from firing to resolution, summed over the resolved ones."""


def list_alerts(connection: Connection, wanted: Filter, before: tuple[int, str] | None, limit: int) -> list[Alert]:
    """Gives alerts, newest first.

    Args:
        connection: an unchanging state.
        wanted: which.
        before: only older ones than this (started_at_us, id).
        limit: at most so many.
    """
    question = _filtered(select(ALERTS.c.body), wanted)
    if before is not None:
        older = ALERTS.c.started_at_us < before[0]
        question = question.where(or_(older, and_(ALERTS.c.started_at_us == before[0], ALERTS.c.id < before[1])))
    question = question.order_by(ALERTS.c.started_at_us.desc(), ALERTS.c.id.desc()).limit(limit)
    return [read_alert(body) for body in connection.scalars(question)]


def find_alert(connection: Connection, alert_id: str) -> tuple[Alert | None, Sequence[Event]]:
    """Gives an alert and what happened to it, oldest first; None where it is not stored."""
    body = connection.scalar(select(ALERTS.c.body).where(ALERTS.c.id == alert_id))
    question = ALERT_EVENTS.select().where(ALERT_EVENTS.c.alert_id == alert_id)
    rows = connection.execute(question.order_by(ALERT_EVENTS.c.sequence).limit(MAX_EVENTS))
    return read_alert(body) if body else None, [read_event(row) for row in rows]


def count_alerts(connection: Connection, wanted: Filter) -> list[Count]:
    """Counts alerts that fire or fired, by type and the worst severity."""
    resolved = ALERTS.c.state == int(State.RESOLVED)
    question = select(
        ALERTS.c.type,
        ALERTS.c.worst,
        func.sum(case((resolved, 0), else_=1)),
        func.sum(case((resolved, 1), else_=0)),
        func.sum(case((resolved, (ALERTS.c.resolved_at_us - ALERTS.c.fired_at_us)), else_=0)),
    ).where(ALERTS.c.fired_at_us > 0)
    question = _filtered(question, wanted).group_by(ALERTS.c.type, ALERTS.c.worst)
    return [
        Count(AlertType(row[0]), Severity(row[1]), int(row[2]), int(row[3]), float(row[4]) / 1e6)
        for row in connection.execute(question.order_by(ALERTS.c.type))
    ]


def newest_sequence(connection: Connection) -> int:
    """Gives the newest event's sequence, 0 without events."""
    return int(connection.scalar(select(func.max(ALERT_EVENTS.c.sequence))) or 0)


def _filtered(question: Select[Any], wanted: Filter) -> Select[Any]:
    if not wanted.history:
        question = question.where(ALERTS.c.state != int(State.RESOLVED))
    if wanted.family:
        question = question.where(ALERTS.c.family == wanted.family)
    if wanted.types:
        question = question.where(ALERTS.c.type.in_([kind.value for kind in wanted.types]))
    if wanted.min_severity is not None:
        question = question.where(ALERTS.c.worst >= int(wanted.min_severity))
    if wanted.states:
        question = question.where(ALERTS.c.state.in_([int(state) for state in wanted.states]))
    if wanted.since_us:
        question = question.where(ALERTS.c.started_at_us >= wanted.since_us)
    return question
