"""Who is to hear of which alert now. Pure.

What each handler has been told is kept per alert, and what it is to hear is what differs from the alert as it stands.
So a handler that was away hears of the present, not of a backlog; nothing can be lost; and what it has to be told is
bounded by the number of alerts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from monitoring.alerts.alert import Alert
from monitoring.alerts.kinds import SECOND_US, Severity, State
from monitoring.alerts.silences import Silence, silenced_by

MAX_IN_NOTIFICATION: Final = 50


@dataclass(frozen=True, slots=True)
class Told:
    """What a handler knows of an alert."""

    notice: int
    severity: Severity
    repeats: int
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """Of what a handler wants to hear."""

    min_severity: Severity = Severity.MEDIUM
    types: frozenset[str] = frozenset()
    families: frozenset[str] = frozenset()
    repeat_seconds: int = 14_400

    def wants(self, alert: Alert) -> bool:
        """Tells whether an alert is for this handler; once it was severe enough, its end is too."""
        return (
            alert.worst >= self.min_severity
            and (not self.types or alert.type.value in self.types)
            and (not self.families or alert.labels.get("family", "") in self.families)
        )


class News(StrEnum):
    """Why an alert stands in a notification."""

    FIRED = "fired"
    ESCALATED = "escalated"
    FLAPPING = "flapping"
    REPEATED = "repeated"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Item:
    """One alert in a notification."""

    alert: Alert
    news: News
    told: Told
    """What the handler knows once it has taken it."""
    before: Told | None
    """What it knew before."""

    @property
    def key(self) -> str:
        """Tells this piece of news from every other: the same again is a repetition of the same attempt."""
        return f"{self.alert.id}:{self.told.notice}:{self.told.repeats}"


@dataclass(frozen=True, slots=True)
class Notification:
    """Alerts of one group for one handler, at most 50."""

    group: str
    items: tuple[Item, ...]

    @property
    def key(self) -> str:
        """Idempotency key: equal for equal news, 32 hexadecimal digits."""
        return hashlib.sha256("\n".join(item.key for item in self.items).encode()).hexdigest()[:32]

    @property
    def severity(self) -> Severity:
        """The worst of its alerts."""
        return max(item.alert.severity for item in self.items)

    @property
    def resolved(self) -> bool:
        """Whether all of it is over."""
        return all(item.news is News.RESOLVED for item in self.items)


def due(
    alerts: Iterable[Alert],
    told: Mapping[str, Told],
    audience: Audience,
    silences: Iterable[Silence],
    now_us: int,
) -> list[Notification]:
    """Gives what a handler is to hear now, oldest alerts first, grouped.

    Args:
        alerts: all in memory, oldest first.
        told: what the handler knows, by the alert's id.
        audience: what it wants to hear of.
        silences: all that may cover something.
        now_us: now.
    """
    standing = tuple(silences)
    groups: dict[str, list[Item]] = {}
    for alert in alerts:
        item = _item(alert, told.get(alert.id), audience, standing, now_us)
        if item is not None:
            groups.setdefault(alert.group, []).append(item)
    return [
        Notification(group, tuple(items[start : start + MAX_IN_NOTIFICATION]))
        for group, items in groups.items()
        for start in range(0, len(items), MAX_IN_NOTIFICATION)
    ]


def _item(
    alert: Alert, known: Told | None, audience: Audience, silences: tuple[Silence, ...], now_us: int
) -> Item | None:
    if alert.state is State.PENDING or not audience.wants(alert):
        return None
    if known is not None and not alert.active:
        # Who heard of its beginning hears of its end, silence or not.
        told = Told(alert.notice, alert.severity, 0, now_us)
        return Item(alert, News.RESOLVED, told, known) if alert.notice > known.notice else None
    # What fired and ended under a silence stays unsaid.
    at_us = now_us if alert.active else alert.resolved_at_us
    if silenced_by(silences, alert.matched_labels(), at_us):
        return None
    if known is None:
        news = News.FIRED if alert.active else News.RESOLVED
        return Item(alert, news, Told(alert.notice, alert.severity, 0, now_us), None)
    return _of_a_known_one(alert, known, audience, now_us)


def _of_a_known_one(alert: Alert, known: Told, audience: Audience, now_us: int) -> Item | None:
    if alert.notice > known.notice:
        news = News.ESCALATED if alert.severity > known.severity else News.FLAPPING
        return Item(alert, news, Told(alert.notice, alert.severity, 0, now_us), known)
    if now_us - known.at_us < audience.repeat_seconds * SECOND_US:
        return None
    return Item(alert, News.REPEATED, Told(known.notice, alert.severity, known.repeats + 1, now_us), known)
