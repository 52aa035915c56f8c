"""Those who watch alerts change. Each has a bounded queue: a slow one is ended and slows nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Final

from monitoring.alerts.alert import Event
from services.runtime.errors import ResourceExhausted

QUEUE_EVENTS: Final = 256
REMEMBERED_EVENTS: Final = 1000
MAX_WATCHERS: Final = 64


class Watcher:
    """One who watches."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE_EVENTS)
        self._overrun = False

    def offer(self, event: Event) -> None:
        """Gives an event to the watcher, who may be too slow for it."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._overrun = True

    async def next(self, seconds: float) -> Event | None:
        """Waits for an event; None when there is none for so long.

        Raises:
            ResourceExhausted: over 256 events were not read in time; watch again from the last one that was.
        """
        try:
            async with asyncio.timeout(seconds):
                event = await self._queue.get()
        except TimeoutError:
            return None
        if self._overrun and self._queue.empty():
            raise ResourceExhausted("", f"over {QUEUE_EVENTS} events were not read in time: watch again from the last")
        return event


class Watchers:
    """All who watch, and the newest events for those who come back."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self._newest: deque[Event] = deque(maxlen=REMEMBERED_EVENTS)

    def publish(self, event: Event) -> None:
        """Tells everybody who watches."""
        self._newest.append(event)
        for watcher in self._watchers:
            watcher.offer(event)

    def since(self, sequence: int) -> list[Event] | None:
        """Gives the events after a sequence; None where some of them are not remembered any more."""
        if not self._newest or sequence > self._newest[-1].sequence or sequence < self._newest[0].sequence - 1:
            return None
        return [event for event in self._newest if event.sequence > sequence]

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watcher]:
        """Watches until the block ends.

        Raises:
            ResourceExhausted: 64 watch already.
        """
        if len(self._watchers) >= MAX_WATCHERS:
            raise ResourceExhausted("", f"{MAX_WATCHERS} watch already; try again later")
        watcher = Watcher()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
