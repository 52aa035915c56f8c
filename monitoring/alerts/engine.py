"""The alerts of a hub: what is seen goes in, what handlers and operators are to know comes out.

Memory is what counts while the process lives, and every change is written at once. When the database refuses, alerts
go on: changes wait, bounded, and are written when it is back; handlers hear of them all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import structlog
from sqlalchemy import Connection

from monitoring.alerts import writing
from monitoring.alerts.alert import Alert, Event
from monitoring.alerts.book import KEPT_FREE, MAX_ACTIVE, Book, Change, Rules
from monitoring.alerts.conditions import Condition
from monitoring.alerts.kinds import SECOND_US
from monitoring.alerts.metrics import AlertMetrics
from monitoring.alerts.silences import LONGEST_US, Matcher, Silence
from monitoring.alerts.telling import Audience, Notification, Told, due
from monitoring.alerts.unsaved import Batch, Unsaved
from monitoring.alerts.watching import Watchers
from services.runtime.database import Database
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, TurnoutError

SAVE_SECONDS: Final = 5.0
"""A change waits so long for the database before it goes on without it."""
TIDY_SECONDS: Final = 60
MAX_SILENCES: Final = 1000
PRUNED_ROWS: Final = 1000
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Observed:
    """What looks led to."""

    events: tuple[Event, ...]
    stored: bool
    """Whether all of it is in the database; else it waits in memory."""


class AlertEngine:
    """Alerts in memory and in the database. Made by `open_alerts`; belongs to one event loop."""

    def __init__(
        self,
        database: Database,
        book: Book,
        *,
        silences: Iterable[Silence],
        told: Mapping[tuple[str, str], Told],
        rules: Callable[[], Rules],
        now_us: Callable[[], int],
        new_id: Callable[[], str],
        metrics: AlertMetrics,
    ) -> None:
        self.watchers = Watchers()
        self._database, self._book, self._rules = database, book, rules
        self._now_us, self._new_id, self._metrics = now_us, new_id, metrics
        self._silences = {silence.id: silence for silence in silences}
        self._told: dict[str, dict[str, Told]] = {}
        for (handler, alert_id), knows in told.items():
            self._told.setdefault(handler, {})[alert_id] = knows
        self._audiences: dict[str, Audience] = {}
        self._unsaved = Unsaved()
        self._writing: asyncio.Future[None] | None = None
        self._wakers: set[Callable[[], None]] = set()
        self._tidied_us = 0
        metrics.show(self._book.active(), len(self._unsaved))

    @property
    def waiting_for_database(self) -> bool:
        """Whether changes wait in memory because the database refuses them."""
        return len(self._unsaved) > 0

    @property
    def sequence(self) -> int:
        """The newest event's."""
        return self._book.sequence

    async def observe(self, conditions: Iterable[Condition]) -> Observed:
        """Takes looks at conditions: raises, counts up, escalates, lets recover. Goes on when the database refuses."""
        change = self._book.plan_looks(conditions, self._rules(), self._now_us())
        if change.refused:
            _log.error("alerts refused: too many are active", refused=change.refused)
        return Observed(change.events, await self._take(change))

    async def report(self, condition: Condition) -> tuple[Alert | None, bool]:
        """Takes one look from outside the check cycle; gives its alert, if any is active, and whether it is stored.

        Raises:
            ResourceExhausted: so many alerts are active that what is left is the check cycle's.
        """
        change = self._book.plan_looks([condition], self._rules(), self._now_us(), keep_free=KEPT_FREE)
        if change.refused:
            most = MAX_ACTIVE - KEPT_FREE
            raise ResourceExhausted("", f"{most} alerts are active already: resolve some", retry_after=60.0)
        stored = await self._take(change)
        alert = self._book.of(condition.fingerprint)
        return (alert if alert is not None and alert.active else None), stored

    async def tick(self) -> None:
        """Lets time pass: what has ceased recovers, what waits is written. Call it every few seconds."""
        await self._take(self._book.plan_time(self._rules(), self._now_us()))

    async def resolve(self, alert_id: str, *, who: str, why: str) -> Alert:
        """Ends an active alert by hand.

        Raises:
            NotFound: no alert in memory has this id.
            FailedPrecondition: it is over.
        """
        change = self._book.plan_resolution(alert_id, self._rules(), who=who, why=why, now_us=self._now_us())
        last = change.events[-1].alert
        await self._take(change)
        _log.info("alert resolved by hand", who=who, why=why, alert=alert_id, type=last.type.value)
        return last

    async def silence(
        self, matchers: tuple[Matcher, ...], *, until_us: int, who: str, why: str
    ) -> tuple[Silence, list[Alert]]:
        """Keeps handlers quiet about what all matchers match; gives the silence and the active alerts that it covers.

        Raises:
            InvalidArgument: the matchers or the end are out of bounds.
            ResourceExhausted: there are 1 000 silences already.
        """
        now_us = self._now_us()
        if until_us <= now_us:
            raise InvalidArgument("ends_at_unix_us", "ends_at_unix_us must be in the future")
        if len(self.silences()) >= MAX_SILENCES:
            raise ResourceExhausted("", f"there are {MAX_SILENCES} silences already: expire some")
        silence = Silence(
            id=self._new_id(), matchers=matchers, starts_at_us=now_us, ends_at_us=until_us, created_by=who, why=why
        )
        await self._silence(silence)
        return silence, [one for one in self._book.active() if silence.covers(one.matched_labels(), now_us)]

    async def expire(self, silence_id: str, *, who: str) -> Silence:
        """Ends a silence now.

        Raises:
            NotFound: there is none of this id.
            FailedPrecondition: it has ended already.
        """
        silence, now_us = self._silences.get(silence_id), self._now_us()
        if silence is None:
            raise NotFound("id", "there is no silence of that id")
        if silence.ends_at_us <= now_us:
            raise FailedPrecondition("id", "the silence has ended already")
        ended = replace(silence, ends_at_us=max(now_us, silence.starts_at_us))
        await self._silence(ended)
        _log.info("silence ended by hand", who=who, silence=silence_id)
        return ended

    def silences(self, *, ended: bool = False) -> list[Silence]:
        """Gives silences, newest first: those that hold, or also those that ended up to 90 days ago."""
        now_us = self._now_us()
        found = [silence for silence in self._silences.values() if ended or silence.ends_at_us > now_us]
        return sorted(found, key=lambda silence: (silence.starts_at_us, silence.id), reverse=True)

    def active(self) -> list[Alert]:
        """Gives pending and firing alerts, newest first. Needs no database."""
        return self._book.active()

    def find(self, alert_id: str) -> Alert | None:
        """Gives an alert that is in memory."""
        return self._book.get(alert_id)

    def told(self, alert_id: str) -> dict[str, Told]:
        """Gives what handlers know of an alert that is in memory."""
        return {handler: known[alert_id] for handler, known in sorted(self._told.items()) if alert_id in known}

    async def flush(self) -> bool:
        """Writes what waits for the database, within a few seconds; tells whether nothing waits any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SAVE_SECONDS):
                # One write at a time: a database that hangs must not gather a queue of them.
                while self._writing is not None:
                    await asyncio.shield(self._writing)
                if batch := self._unsaved.batch():
                    self._writing = asyncio.ensure_future(self._write(batch))
                    await asyncio.shield(self._writing)
        self._metrics.show(self._book.active(), len(self._unsaved))
        return not self._unsaved

    # What handlers' workers ask.

    def set_audiences(self, audiences: Mapping[str, Audience]) -> None:
        """Says who is to hear of what; who is not named any more is forgotten."""
        self._audiences = dict(audiences)
        for handler in set(self._told) - set(audiences):
            del self._told[handler]

    def due(self, handler: str) -> list[Notification]:
        """Gives what a handler is to hear now, oldest first."""
        audience = self._audiences.get(handler)
        if audience is None:
            return []
        return due(self._book, self._told.get(handler, {}), audience, self._silences.values(), self._now_us())

    async def took(self, handler: str, notification: Notification) -> None:
        """Notes that a handler knows what a notification says."""
        known = self._told.setdefault(handler, {})
        news = {item.alert.id: item.told for item in notification.items}
        known |= news
        self._unsaved.tell({(handler, alert_id): told for alert_id, told in news.items()})
        await self.flush()

    def wake_on_change(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Has `wake` called after each change; gives what ends that."""
        self._wakers.add(wake)
        return lambda: self._wakers.discard(wake)

    async def tidy(self, *, history_days: int) -> None:
        """Lets go of what is old: at most once a minute, a bounded part at a time.

        Raises:
            Unavailable: the database refused; the next time works.
        """
        now_us = self._now_us()
        if now_us - self._tidied_us < TIDY_SECONDS * SECOND_US:
            return
        self._tidied_us = now_us
        if lost := self._book.forget(self._everybody_knows, self._rules(), now_us):
            _log.error("resolved alerts forgotten before every handler knew them", alerts=lost)
        kept = frozenset(alert.id for alert in self._book)
        for known in self._told.values():
            for alert_id in known.keys() - kept:
                del known[alert_id]
        for silence in list(self._silences.values()):
            if silence.ends_at_us < now_us - LONGEST_US:
                del self._silences[silence.id]
        before_us, handlers = now_us - history_days * 86_400 * SECOND_US, list(self._audiences)

        def work(connection: Connection) -> None:
            writing.prune(connection, before_us=before_us, keep=kept, rows=PRUNED_ROWS)
            writing.forget_handlers(connection, handlers)

        await self._database.write(work)

    async def _write(self, batch: Batch) -> None:
        # What refuses says so itself, in its log and its own alert; everything is written again.
        with contextlib.suppress(TurnoutError):
            await self._database.write(batch.write)
            self._unsaved.saved(batch)
        self._writing = None

    async def _silence(self, silence: Silence) -> None:
        self._silences[silence.id] = silence
        self._unsaved.silence([silence])
        await self._changed()

    async def _take(self, change: Change) -> bool:
        self._book.apply(change)
        self._unsaved.add(change)
        for event in change.events:
            self._metrics.happened(event)
            self.watchers.publish(event)
        return await self._changed()

    async def _changed(self) -> bool:
        stored = await self.flush()
        # Handlers hear of what is stored, or of what the database did not take in time.
        for wake in self._wakers:
            wake()
        return stored

    def _everybody_knows(self, alert: Alert) -> bool:
        silences, now_us = self._silences.values(), self._now_us()
        return not any(
            due([alert], self._told.get(handler, {}), audience, silences, now_us)
            for handler, audience in self._audiences.items()
        )
