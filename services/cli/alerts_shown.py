"""Alerts, silences and statistics as plain values and as tables."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from services.cli.moments import ago, clock, length, seconds_since, utc

if TYPE_CHECKING:
    from turnout.v1 import monitoring_pb2 as pb

SEVERITIES: Final = ("critical", "high", "medium", "low", "info")
_COLOURS: Final = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan", "info": "white"}
_SIGNS: Final = {"equal": "=", "unspecified": "=", "not_equal": "!=", "glob": "~=", "not_glob": "!~="}


def alert_plain(one: pb.Alert) -> dict[str, Any]:
    """Gives an alert as plain values."""
    from services.cli.monitoring import instant, word
    from turnout.v1 import monitoring_pb2 as pb

    return {
        "id": one.id,
        "type": word(pb.AlertType, one.type),
        "severity": word(pb.Severity, one.severity),
        "state": word(pb.AlertState, one.state),
        "labels": dict(sorted(one.labels.items())),
        "summary": one.summary,
        "value": one.value if one.HasField("value") else None,
        "limit": one.limit if one.HasField("limit") else None,
        "started_at": instant(one.started_at_unix_us),
        "fired_at": instant(one.fired_at_unix_us),
        "last_seen": instant(one.last_seen_unix_us),
        "resolved_at": instant(one.resolved_at_unix_us),
        "resolved_by": one.resolved_by,
        "resolved_why": one.resolved_why,
        "seen": one.seen,
        "flapping": one.flapping,
        "silenced_by": one.silenced_by,
    }


def event_plain(one: pb.AlertEvent) -> dict[str, Any]:
    """Gives an entry of the history as plain values."""
    from services.cli.monitoring import instant, word
    from turnout.v1 import monitoring_pb2 as pb

    return {
        "sequence": one.sequence,
        "at": instant(one.at_unix_us),
        "event": word(pb.AlertEventKind, one.kind),
        "alert": alert_plain(one.alert),
    }


def silence_plain(one: pb.Silence) -> dict[str, Any]:
    """Gives a silence as plain values."""
    from services.cli.monitoring import instant, word
    from turnout.v1 import monitoring_pb2 as pb

    return {
        "id": one.id,
        "matchers": [f"{m.label}{_SIGNS[word(pb.MatchOperator, m.operator)]}{m.value}" for m in one.matchers],
        "starts_at": instant(one.starts_at_unix_us),
        "ends_at": instant(one.ends_at_unix_us),
        "created_by": one.created_by,
        "why": one.why,
    }


def statistics_plain(found: pb.AlertStatisticsResponse) -> dict[str, Any]:
    """Gives statistics as plain values."""
    from services.cli.monitoring import instant, word
    from turnout.v1 import monitoring_pb2 as pb

    known = found.HasField("mean_seconds_to_resolve")
    return {
        "active": found.active,
        "mean_seconds_to_resolve": found.mean_seconds_to_resolve if known else None,
        "waiting_for_database": found.waiting_for_database,
        "counts": [
            {
                "type": word(pb.AlertType, one.type),
                "severity": word(pb.Severity, one.severity),
                "firing": one.firing,
                "resolved": one.resolved,
            }
            for one in found.counts
        ],
        "handlers": [
            {
                "name": one.name,
                "kind": one.kind,
                "delivered": one.delivered,
                "failed": one.failed,
                "waiting": one.waiting,
                "given_up": one.given_up,
                "last_error": one.last_error,
                "last_delivered": instant(one.last_delivered_unix_us),
            }
            for one in found.handlers
        ],
    }


def alerts_table(alerts: list[dict[str, Any]], now: float) -> RenderableType:
    """Shows alerts, an id being there to be copied.

    Args:
        alerts: as `alert_plain` gives them.
        now: seconds since 1970.
    """
    table = Table()
    table.add_column("severity, state", no_wrap=True)
    table.add_column("alert", overflow="fold")
    for place, one in enumerate(alerts):
        labels = " ".join(f"{name}={value}" for name, value in one["labels"].items())
        lines = [f" {labels}", one["summary"]]
        if one["resolved_at"]:
            lines.append(f"resolved by {one['resolved_by']}: {one['resolved_why']}".removesuffix(": "))
        told = "\n".join(filter(None, lines))
        what = Text.assemble((one["type"], "bold"), f"{told}\n", (one["id"], "dim"))
        if place:
            table.add_section()
        table.add_row(Text.assemble((one["severity"], _COLOURS.get(one["severity"], "white")), *_state(one, now)), what)
    return table


def _state(one: dict[str, Any], now: float) -> list[str]:
    """Gives the lines about what an alert does and since when."""
    marks = [name for name, there in (("silenced", one["silenced_by"]), ("flapping", one["flapping"])) if there]
    lines = [", ".join([one["state"], *marks])]
    began = one["fired_at"] or one["started_at"]
    if one["resolved_at"]:
        lasted = seconds_since(began, datetime.fromisoformat(one["resolved_at"]).timestamp()) if began else 0.0
        lines += [ago(one["resolved_at"], now), f"after {length(max(lasted, 0.0))}"]
    elif began:
        lines += [f"since {clock(began)[-8:]} UTC", ago(began, now)]
    return [f"\n{line}" for line in lines]


def active_table(alerts: list[dict[str, Any]], *, checked: str, filters: str, now: float) -> RenderableType:
    """Shows the active alerts, and says so when there is none.

    Args:
        alerts: as `alert_plain` gives them, in the order in which they are to be shown.
        checked: when the last check cycle ended, in ISO 8601; empty before the first one.
        filters: which were asked for, such as " of family dispatch"; empty for all.
        now: seconds since 1970.
    """
    fresh = f"checked {utc(checked)}, {ago(checked, now)}" if checked else "the first check cycle has not ended yet"
    if not alerts:
        return Text.assemble((f"No alert{filters} is active", "bold"), f" · {fresh}")
    counted = Counter(one["severity"] for one in alerts)
    parts = ", ".join(f"{counted[name]} {name}" for name in SEVERITIES if counted[name])
    head = Text.assemble((f"{len(alerts)} active{filters}: {parts}", "bold"), f" · {fresh}")
    return Group(head, alerts_table(alerts, now))


def past_table(alerts: list[dict[str, Any]], *, filters: str, limit: int, now: float) -> RenderableType:
    """Shows alerts of the past, newest first, and says so when there is none, or when there may be more."""
    if not alerts:
        return Text(f"No alert{filters} was raised in the time that the history goes back.")
    table = alerts_table(alerts, now)
    more = Text(f"These are the newest {limit}; --limit shows more.")
    return Group(table, more) if len(alerts) >= limit else table


def history_table(result: dict[str, Any], now: float) -> RenderableType:
    """Shows one alert with its history."""
    events = _table("at (UTC)", "event", "severity", "summary")
    for one in result["events"]:
        alert = one["alert"]
        events.add_row(clock(one["at"]), one["event"], alert["severity"], escape(alert["summary"]))
    told: RenderableType = Text("No handler has been told of it.")
    if result["told"]:
        told = _table("handler", "last notice", "at (UTC)")
        for one in result["told"]:
            told.add_row(escape(one["handler"]), str(one["notice"]), clock(one["at"]))
    return Group(alerts_table([result["alert"]], now), events, told)


def silences_table(silences: list[dict[str, Any]], now: float) -> RenderableType:
    """Shows silences, and says so when there is none."""
    if not silences:
        return Text("Nothing is silenced.")
    table = Table()
    table.add_column("from, to (UTC)", no_wrap=True)
    table.add_column("silence", overflow="fold")
    for place, one in enumerate(silences):
        if place:
            table.add_section()
        ends = ago(one["ends_at"], now)
        until = f"{clock(one['ends_at'])}\n{'ended' if ends.endswith('ago') else 'ends'} {ends}"
        matchers = (" ".join(one["matchers"]), "bold")
        what = Text.assemble(matchers, f"\n{one['why']}\nby {one['created_by']}\n", (one["id"], "dim"))
        table.add_row(f"{clock(one['starts_at'])}\n{until}", what)
    return table


def statistics_table(result: dict[str, Any]) -> RenderableType:
    """Shows statistics."""
    mean = result["mean_seconds_to_resolve"]
    title = f"{result['active']} active" + ("" if mean is None else f" · resolved after {length(mean)} on average")
    if result["waiting_for_database"]:
        title += " · changes wait for the database"
    counted: RenderableType = Text(f"{title} · no alert was raised in this time")
    if result["counts"]:
        counted = _table("type", "severity", "firing", "resolved")
        counted.title = title
        for one in result["counts"]:
            counted.add_row(one["type"], one["severity"], str(one["firing"]), str(one["resolved"]))
    if not result["handlers"]:
        return Group(
            counted, Text("There is no handler: nobody is told. Declare one under `monitoring` in turnout.yaml.")
        )
    handlers = _table("handler", "kind", "delivered", "failed", "waiting", "given up", "last error")
    for one in result["handlers"]:
        numbers = (str(one[name]) for name in ("delivered", "failed", "waiting", "given_up"))
        handlers.add_row(escape(one["name"]), one["kind"], *numbers, escape(one["last_error"]) or "–")
    return Group(counted, handlers)


def _table(*columns: str) -> Table:
    table = Table(title_justify="left")
    numbers = {"firing", "resolved", "delivered", "failed", "waiting", "given up"}
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    return table
