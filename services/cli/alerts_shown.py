"""Alerts, silences and statistics as plain values and as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from turnout.v1 import monitoring_pb2 as pb

_COLOURS: Final = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan", "info": "white"}
_WIDTHS: Final = {"id": 36, "what and where": 23}
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


def alerts_table(alerts: list[dict[str, Any]]) -> Any:
    """Shows alerts."""
    from rich.markup import escape

    table = _table("id", "severity", "what and where", "state, since", "summary")
    for one in alerts:
        state = one["state"] + (" (silenced)" if one["silenced_by"] else " (flapping)" if one["flapping"] else "")
        where = "\n".join([one["type"], *(f"{name}={value}" for name, value in one["labels"].items())])
        severity = f"[{_COLOURS.get(one['severity'], 'white')}]{one['severity']}[/]"
        texts = (where, f"{state}\n{_short(one['started_at'])}", one["summary"])
        table.add_row(one["id"], severity, *map(escape, texts))
    return table


def history_table(result: dict[str, Any]) -> Any:
    """Shows one alert with its history."""
    from rich.console import Group
    from rich.markup import escape

    events = _table("at", "event", "severity", "summary")
    for one in result["events"]:
        alert = one["alert"]
        events.add_row(_short(one["at"]), one["event"], alert["severity"], escape(alert["summary"]))
    told = _table("handler", "knows", "since")
    for one in result["told"]:
        told.add_row(escape(one["handler"]), str(one["notice"]), _short(one["at"]))
    return Group(alerts_table([result["alert"]]), events, told)


def silences_table(silences: list[dict[str, Any]]) -> Any:
    """Shows silences."""
    from rich.markup import escape

    table = _table("matchers", "from", "to", "by", "why", "id")
    for one in silences:
        texts = ("\n".join(one["matchers"]), _short(one["starts_at"]), _short(one["ends_at"]))
        table.add_row(*map(escape, (*texts, one["created_by"], one["why"], one["id"])))
    return table


def statistics_table(result: dict[str, Any]) -> Any:
    """Shows statistics."""
    from rich.console import Group
    from rich.markup import escape

    mean = result["mean_seconds_to_resolve"]
    counts = _table("type", "severity", "firing", "resolved")
    counts.title = f"{result['active']} active" + ("" if mean is None else f" · resolved after {mean:.0f} s on average")
    for one in result["counts"]:
        counts.add_row(one["type"], one["severity"], str(one["firing"]), str(one["resolved"]))
    handlers = _table("handler", "kind", "delivered", "failed", "waiting", "given up", "last error")
    for one in result["handlers"]:
        numbers = (str(one[name]) for name in ("delivered", "failed", "waiting", "given_up"))
        handlers.add_row(escape(one["name"]), one["kind"], *numbers, escape(one["last_error"]))
    return Group(counts, handlers)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(title_justify="left")
    for name in columns:
        # An id is there to be copied: it is shown whole.
        table.add_column(name, no_wrap=name == "id", min_width=_WIDTHS.get(name))
    return table


def _short(at: str) -> str:
    return at.replace("T", " ").removesuffix("+00:00")
