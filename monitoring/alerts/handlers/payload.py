"""A notification as others read it: a dictionary for programs, a few lines for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from monitoring.alerts.telling import Item, News, Notification

VERSION: Final = 1
"""Of the dictionary's form; grows when something changes its meaning."""


def as_dictionary(notification: Notification) -> dict[str, Any]:
    """Gives a notification as JSON can hold it. Instants are RFC 3339 in UTC, None where there is none yet."""
    return {
        "version": VERSION,
        "key": notification.key,
        "group": notification.group,
        "severity": notification.severity.word,
        "resolved": notification.resolved,
        "alerts": [_item(item) for item in notification.items],
    }


def as_lines(notification: Notification) -> list[str]:
    """Gives a headline and one line an alert."""
    return [headline(notification), *(_line(item) for item in notification.items)]


def headline(notification: Notification) -> str:
    """Gives one line on all of it, without line breaks."""
    worst = max(notification.items, key=lambda item: item.alert.severity).alert
    word = "RESOLVED" if notification.resolved else (worst.severity.priority or worst.severity.word.upper())
    count = f" ({len(notification.items)} alerts)" if len(notification.items) > 1 else ""
    where = " ".join(filter(None, (worst.labels.get("family"), worst.labels.get("experiment"))))
    return " ".join(f"[{word}] {worst.type.value} {where}{count}: {worst.summary}".split())


def rfc3339(at_us: int) -> str | None:
    """Gives an instant in UTC to the microsecond; None for 0."""
    if not at_us:
        return None
    seconds, microseconds = divmod(at_us, 1_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _item(item: Item) -> dict[str, Any]:
    alert = item.alert
    return {
        "key": item.key,
        "news": item.news.value,
        "id": alert.id,
        "fingerprint": alert.fingerprint,
        "type": alert.type.value,
        "labels": dict(alert.labels),
        "severity": alert.severity.word,
        "priority": alert.severity.priority,
        "state": alert.state.name.lower(),
        "summary": alert.summary,
        "value": alert.value,
        "limit": alert.limit,
        "flapping": alert.flapping,
        "started_at": rfc3339(alert.started_at_us),
        "fired_at": rfc3339(alert.fired_at_us),
        "resolved_at": rfc3339(alert.resolved_at_us),
        "resolved_by": alert.resolved_by or None,
    }


def _line(item: Item) -> str:
    alert = item.alert
    labels = " ".join(f"{name}={value}" for name, value in sorted(alert.labels.items()))
    over = f" by {alert.resolved_by}" if item.news is News.RESOLVED else ""
    return " ".join(f"{item.news.value}{over} · {alert.severity.word} · {labels} · {alert.summary}".split())
