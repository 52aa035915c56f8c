"""What has changed in memory and is not in the database yet: bounded, and written again until it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from monitoring.alerts.alert import Alert, Event
from monitoring.alerts.book import Change
from monitoring.alerts.silences import Silence
from monitoring.alerts.telling import Told
from monitoring.alerts.writing import drop_alerts, write_alerts, write_events, write_silences, write_told

MAX_EVENTS: Final = 20_000
"""Of the history only: while the database is away for long, its oldest entries are lost first, never an alert."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is written in one transaction."""

    alerts: Mapping[str, Alert]
    dropped: frozenset[str]
    events: tuple[Event, ...]
    told: Mapping[tuple[str, str], Told]
    silences: Mapping[str, Silence]

    def write(self, connection: Connection) -> None:
        """Writes it all; may be repeated."""
        write_alerts(connection, self.alerts.values())
        drop_alerts(connection, self.dropped)
        write_events(connection, self.events)
        write_told(connection, self.told)
        write_silences(connection, self.silences.values())

    def __bool__(self) -> bool:
        return bool(self.alerts or self.dropped or self.events or self.told or self.silences)


class Unsaved:
    """Collects changes until they are written. Newer states replace older ones."""

    def __init__(self) -> None:
        self._alerts: dict[str, Alert] = {}
        self._dropped: set[str] = set()
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._told: dict[tuple[str, str], Told] = {}
        self._silences: dict[str, Silence] = {}

    def add(self, change: Change) -> None:
        """Collects a change of the book."""
        for alert in change.alerts:
            self._alerts[alert.id] = alert
        for alert_id in change.dropped:
            self._alerts.pop(alert_id, None)
            self._dropped.add(alert_id)
        self._events.extend(change.events)

    def tell(self, told: Mapping[tuple[str, str], Told]) -> None:
        """Collects what handlers know."""
        self._told |= told

    def silence(self, silences: Iterable[Silence]) -> None:
        """Collects silences."""
        self._silences |= {silence.id: silence for silence in silences}

    def batch(self) -> Batch:
        """Gives all of it."""
        return Batch(
            dict(self._alerts), frozenset(self._dropped), tuple(self._events), dict(self._told), dict(self._silences)
        )

    def saved(self, batch: Batch) -> None:
        """Forgets what a batch has written, unless it changed meanwhile."""
        for alert_id, alert in batch.alerts.items():
            if self._alerts.get(alert_id) is alert:
                del self._alerts[alert_id]
        self._dropped -= batch.dropped
        newest = batch.events[-1].sequence if batch.events else 0
        while self._events and self._events[0].sequence <= newest:
            self._events.popleft()
        for key, told in batch.told.items():
            if self._told.get(key) is told:
                del self._told[key]
        for silence_id, silence in batch.silences.items():
            if self._silences.get(silence_id) is silence:
                del self._silences[silence_id]

    def __len__(self) -> int:
        """How many rows wait."""
        return sum(map(len, (self._alerts, self._dropped, self._events, self._told, self._silences)))
