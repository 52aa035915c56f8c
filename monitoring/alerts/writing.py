"""Alerts, silences and what handlers know, as rows. Every write may be repeated: doing it twice is doing it once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Connection, Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from monitoring.alerts.alert import Alert, Event
from monitoring.alerts.kinds import AlertType, EventKind, Severity, State
from monitoring.alerts.silences import Matcher, Operator, Silence
from monitoring.alerts.tables import ALERT_EVENTS, ALERT_SILENCES, ALERT_TOLD, ALERTS
from monitoring.alerts.telling import Told

_CHUNK: Final = 500


def write_alerts(connection: Connection, alerts: Iterable[Alert]) -> None:
    """Stores alerts as they stand; a newer state replaces an older one."""
    upsert(connection, ALERTS, [alert_row(alert) for alert in alerts])


def write_events(connection: Connection, events: Iterable[Event]) -> None:
    """Stores events."""
    rows = [
        {
            "sequence": event.sequence,
            "at_us": event.at_us,
            "kind": int(event.kind),
            "alert_id": event.alert.id,
            "body": alert_text(event.alert),
        }
        for event in events
    ]
    upsert(connection, ALERT_EVENTS, rows)


def write_told(connection: Connection, told: Mapping[tuple[str, str], Told]) -> None:
    """Stores what handlers know, by (handler, alert's id)."""
    rows = [
        {
            "handler": handler,
            "alert_id": alert_id,
            "notice": knows.notice,
            "severity": int(knows.severity),
            "repeats": knows.repeats,
            "at_us": knows.at_us,
        }
        for (handler, alert_id), knows in told.items()
    ]
    upsert(connection, ALERT_TOLD, rows)


def write_silences(connection: Connection, silences: Iterable[Silence]) -> None:
    """Stores silences as they stand."""
    rows = [{"id": one.id, "ends_at_us": one.ends_at_us, "body": _silence_text(one)} for one in silences]
    upsert(connection, ALERT_SILENCES, rows)


def drop_alerts(connection: Connection, ids: Iterable[str]) -> None:
    """Takes out pending alerts that came to nothing; their events stay."""
    wanted = list(ids)
    for start in range(0, len(wanted), _CHUNK):
        connection.execute(delete(ALERTS).where(ALERTS.c.id.in_(wanted[start : start + _CHUNK])))


def prune(connection: Connection, *, before_us: int, keep: frozenset[str], rows: int) -> int:
    """Takes out resolved alerts from before an instant with all that belongs to them, and ended silences.

    Args:
        connection: a transaction that writes.
        before_us: alerts that were resolved before this instant may go.
        keep: ids that must stay, because a handler has not heard of them.
        rows: at most this many alerts, so that the transaction stays short.

    Returns:
        How many alerts went.
    """
    old = (
        select(ALERTS.c.id)
        .where(ALERTS.c.state == int(State.RESOLVED), ALERTS.c.resolved_at_us < before_us)
        .order_by(ALERTS.c.resolved_at_us)
        .limit(rows + len(keep))
    )
    ids = [alert_id for alert_id in connection.scalars(old) if alert_id not in keep][:rows]
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        for column in (ALERT_EVENTS.c.alert_id, ALERT_TOLD.c.alert_id, ALERTS.c.id):
            connection.execute(delete(column.table).where(column.in_(chunk)))
    # Events of alerts that came to nothing belong to no row any more.
    stale = select(ALERT_EVENTS.c.sequence).outerjoin(ALERTS, ALERTS.c.id == ALERT_EVENTS.c.alert_id)
    stale = stale.where(ALERTS.c.id.is_(None), ALERT_EVENTS.c.at_us < before_us).limit(rows)
    connection.execute(delete(ALERT_EVENTS).where(ALERT_EVENTS.c.sequence.in_(stale.scalar_subquery())))
    connection.execute(delete(ALERT_SILENCES).where(ALERT_SILENCES.c.ends_at_us < before_us))
    return len(ids)


def forget_handlers(connection: Connection, known: Iterable[str]) -> None:
    """Takes out what handlers knew that are no longer configured."""
    connection.execute(delete(ALERT_TOLD).where(ALERT_TOLD.c.handler.not_in(list(known))))


def load_alerts(connection: Connection, *, resolved_since_us: int, limit: int) -> list[Alert]:
    """Gives all active alerts, and the newest resolved ones since an instant."""
    active = select(ALERTS.c.body).where(ALERTS.c.state != int(State.RESOLVED))
    resolved = (
        select(ALERTS.c.body)
        .where(ALERTS.c.state == int(State.RESOLVED), ALERTS.c.resolved_at_us >= resolved_since_us)
        .order_by(ALERTS.c.resolved_at_us.desc())
        .limit(limit)
    )
    return [read_alert(body) for question in (active, resolved) for body in connection.scalars(question)]


def load_told(connection: Connection, ids: Iterable[str]) -> dict[tuple[str, str], Told]:
    """Gives what handlers know of these alerts, by (handler, alert's id)."""
    found: dict[tuple[str, str], Told] = {}
    wanted = list(ids)
    for start in range(0, len(wanted), _CHUNK):
        chosen = ALERT_TOLD.select().where(ALERT_TOLD.c.alert_id.in_(wanted[start : start + _CHUNK]))
        for row in connection.execute(chosen):
            told = Told(row.notice, Severity(row.severity), row.repeats, row.at_us)
            found[row.handler, row.alert_id] = told
    return found


def load_silences(connection: Connection, *, ended_since_us: int) -> list[Silence]:
    """Gives silences that have not ended, or ended since an instant."""
    question = select(ALERT_SILENCES.c.body).where(ALERT_SILENCES.c.ends_at_us >= ended_since_us)
    return [_read_silence(body) for body in connection.scalars(question)]


def upsert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Inserts rows, replacing those with the same primary key."""
    if not rows:
        return
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    keys = [column.name for column in table.primary_key]
    statement = make(table)
    changed = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), rows)


def alert_row(alert: Alert) -> dict[str, Any]:
    """Gives an alert as a row."""
    return {
        "id": alert.id,
        "type": alert.type.value,
        "family": alert.labels.get("family", ""),
        "state": int(alert.state),
        "worst": int(alert.worst),
        "severity": int(alert.severity),
        "started_at_us": alert.started_at_us,
        "fired_at_us": alert.fired_at_us,
        "resolved_at_us": alert.resolved_at_us,
        "body": alert_text(alert),
    }


def alert_text(alert: Alert) -> str:
    """Gives an alert in JSON."""
    return json.dumps(asdict(alert), separators=(",", ":"), ensure_ascii=False)


def read_alert(text: str) -> Alert:
    """Reads what `alert_text` gave."""
    fields = json.loads(text)
    fields["type"] = AlertType(fields["type"])
    fields["state"] = State(fields["state"])
    fields["severity"] = Severity(fields["severity"])
    fields["worst"] = Severity(fields["worst"])
    return Alert(**fields)


def read_event(row: Any) -> Event:
    """Reads a row of `alert_events`."""
    return Event(row.sequence, row.at_us, EventKind(row.kind), read_alert(row.body))


def _silence_text(silence: Silence) -> str:
    return json.dumps(asdict(silence), separators=(",", ":"), ensure_ascii=False)


def _read_silence(text: str) -> Silence:
    fields = json.loads(text)
    matchers = (Matcher(one["label"], Operator(one["operator"]), one["value"]) for one in fields["matchers"])
    return Silence(**{**fields, "matchers": tuple(matchers)})
