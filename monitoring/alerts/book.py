"""All alerts that matter now, and what a look, an operator or the passing of time does to them. Pure: no clock, no I/O.

A change is planned first and applied after, so that whoever must store it first can.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from monitoring.alerts import lifecycle
from monitoring.alerts.alert import Alert, Event
from monitoring.alerts.conditions import Condition, Verdict
from monitoring.alerts.kinds import SECOND_US, AlertType, Rule
from services.runtime.errors import FailedPrecondition, NotFound

MAX_ACTIVE: Final = 10_000
KEPT_FREE: Final = 1000
"""Places that alerts raised from outside leave to the monitor's own."""
MAX_RESOLVED: Final = 10_000
"""Resolved alerts in memory: those that a handler has not heard of, and those that flap damping remembers."""
Rules = Mapping[AlertType, Rule]
_RANK: Final = {Verdict.UNKNOWN: 0, Verdict.CLEAR: 1, Verdict.HOLDS: 2}


@dataclass(frozen=True, slots=True)
class Change:
    """What to write and to tell. `alerts` are whole and replace those of the same id."""

    alerts: tuple[Alert, ...] = ()
    dropped: tuple[str, ...] = ()
    """Ids of pending alerts that came to nothing."""
    events: tuple[Event, ...] = ()
    refused: int = 0
    """Conditions that hold and raised nothing, because too many alerts are active."""


@dataclass(slots=True)
class _Draft:
    """A change in the making."""

    at_us: int
    sequence: int
    alerts: list[Alert] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def take(self, before: Alert | None, step: lifecycle.Step) -> None:
        if step.alert is not None and step.alert is not before:
            self.alerts.append(step.alert)
        if step.alert is None and before is not None:
            self.dropped.append(before.id)
        for kind in step.events:
            self.sequence += 1
            told = step.alert or before
            assert told is not None
            self.events.append(Event(self.sequence, self.at_us, kind, told))

    def done(self, refused: int = 0) -> Change:
        return Change(tuple(self.alerts), tuple(self.dropped), tuple(self.events), refused)


class Book:
    """The alerts in memory.

    Args:
        alerts: those that were stored: all active ones, and resolved ones that still matter.
        sequence: the newest event's.
        new_id: makes ids that rise with time.
    """

    def __init__(self, alerts: Iterable[Alert], *, sequence: int, new_id: Callable[[], str]) -> None:
        self.sequence = sequence
        self._new_id = new_id
        self._by_id: dict[str, Alert] = {}
        self._active: dict[str, str] = {}
        self._last: dict[str, str] = {}
        self._now_us = 0
        for alert in sorted(alerts, key=lambda alert: (alert.started_at_us, alert.id)):
            self._put(alert)

    def __iter__(self) -> Iterator[Alert]:
        """Gives every alert in memory, oldest first."""
        return iter(self._by_id.values())

    def active(self) -> list[Alert]:
        """Gives pending and firing alerts, newest first."""
        found = [self._by_id[alert_id] for alert_id in self._active.values()]
        return sorted(found, key=lambda alert: (alert.started_at_us, alert.id), reverse=True)

    def get(self, alert_id: str) -> Alert | None:
        """Gives an alert that is in memory."""
        return self._by_id.get(alert_id)

    def of(self, fingerprint: str) -> Alert | None:
        """Gives the newest episode of a condition that is in memory."""
        alert_id = self._active.get(fingerprint) or self._last.get(fingerprint)
        return self._by_id[alert_id] if alert_id else None

    def plan_looks(self, conditions: Iterable[Condition], rules: Rules, now_us: int, *, keep_free: int = 0) -> Change:
        """Plans what looks at conditions change; of several looks at the same condition the worst counts.

        Args:
            conditions: what was seen.
            rules: how each type behaves.
            now_us: now.
            keep_free: places among the active alerts that these looks may not take.
        """
        draft = self._draft(now_us)
        room = MAX_ACTIVE - keep_free - len(self._active)
        refused = 0
        for fingerprint, condition in _worst(conditions).items():
            before = self.of(fingerprint)
            begins = before is None or not before.active
            if begins and condition.verdict is Verdict.HOLDS and room <= 0:
                refused += 1
                continue
            rule = rules[condition.type]
            step = lifecycle.look(before, condition, rule, now_us=draft.at_us, new_id=self._new_id())
            draft.take(before, step)
            room -= begins and step.alert is not None and step.alert.active
        return draft.done(refused)

    def plan_time(self, rules: Rules, now_us: int) -> Change:
        """Plans what the passing of time changes."""
        draft = self._draft(now_us)
        for alert_id in self._active.values():
            alert = self._by_id[alert_id]
            draft.take(alert, lifecycle.pass_time(alert, rules[alert.type], now_us=draft.at_us))
        return draft.done()

    def plan_resolution(self, alert_id: str, rules: Rules, *, who: str, why: str, now_us: int) -> Change:
        """Plans the end of an alert by hand.

        Raises:
            NotFound: there is none of that id in memory.
            FailedPrecondition: it is over already.
        """
        alert = self._by_id.get(alert_id)
        if alert is None:
            raise NotFound("id", "there is no active alert of that id")
        if not alert.active:
            raise FailedPrecondition("id", "the alert is resolved already")
        draft = self._draft(now_us)
        rule = rules[alert.type]
        draft.take(alert, lifecycle.resolve_by_hand(alert, rule, who=who, why=why, now_us=draft.at_us))
        return draft.done()

    def apply(self, change: Change) -> None:
        """Makes a planned change true. Changes are applied in the order in which they were planned."""
        for alert_id in change.dropped:
            alert = self._by_id.pop(alert_id)
            del self._active[alert.fingerprint]
        for alert in change.alerts:
            self._put(alert)
        if change.events:
            self.sequence = change.events[-1].sequence
            self._now_us = max(self._now_us, change.events[-1].at_us)

    def forget(self, told: Callable[[Alert], bool], rules: Rules, now_us: int) -> int:
        """Lets go of resolved alerts that every handler knows and that damping needs no more.

        Args:
            told: tells whether every handler that should know of an alert does.
            rules: how long damping remembers.
            now_us: now.

        Returns:
            How many had to go although a handler did not know them, because there are over 10 000.
        """
        resolved = [alert for alert in self._by_id.values() if not alert.active]
        lost = 0
        for alert in resolved:
            superseded = self._last.get(alert.fingerprint) != alert.id
            if told(alert) and (superseded or _decided(alert, rules[alert.type], now_us)):
                self._drop(alert)
        for alert in itertools.islice(resolved, max(0, len(self._by_id) - len(self._active) - MAX_RESOLVED)):
            if alert.id in self._by_id:
                lost += not told(alert)
                self._drop(alert)
        return lost

    def _draft(self, now_us: int) -> _Draft:
        # A clock that went back must not make durations negative.
        self._now_us = max(self._now_us, now_us)
        return _Draft(self._now_us, self.sequence)

    def _put(self, alert: Alert) -> None:
        self._by_id[alert.id] = alert
        if alert.active:
            self._active[alert.fingerprint] = alert.id
            return
        if self._active.get(alert.fingerprint) == alert.id:
            del self._active[alert.fingerprint]
        self._last[alert.fingerprint] = alert.id

    def _drop(self, alert: Alert) -> None:
        del self._by_id[alert.id]
        if self._last.get(alert.fingerprint) == alert.id:
            del self._last[alert.fingerprint]


def _worst(conditions: Iterable[Condition]) -> dict[str, Condition]:
    found: dict[str, Condition] = {}
    for condition in conditions:
        other = found.get(condition.fingerprint)
        if other is None or _badness(condition) > _badness(other):
            found[condition.fingerprint] = condition
    return found


def _badness(condition: Condition) -> tuple[int, int]:
    return _RANK[condition.verdict], condition.severity or 0


def _decided(alert: Alert, rule: Rule, now_us: int) -> bool:
    """Tells whether neither hold-down nor flap damping can still ask for a resolved alert."""
    memory_us = 8 * rule.flap_half_life_seconds * SECOND_US
    return now_us >= alert.held_until_us and now_us - alert.resolved_at_us >= memory_us
