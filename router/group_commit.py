"""Group commit: one synchronisation for all that was written in the last milliseconds, in a thread of its own.

The event loop hears of it only when somebody waits or something is to be done: at a thousand calls a second its own
timers and wake-ups would cost more than the synchronisation.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

COMMIT_SECONDS: Final = 0.005
MAX_WAITERS: Final = 100_000


class GroupCommit:
    """The committing thread and those who wait for it.

    Args:
        synchronise: called in the thread; brings everything written so far to stable storage, or gives the error.
        urgent: called in the thread; whether the event loop should look after what is written.
        failed: called in the event loop after an error, while the thread stands still.
    """

    def __init__(
        self,
        synchronise: Callable[[], OSError | None],
        *,
        urgent: Callable[[], bool],
        failed: Callable[[OSError], None],
    ) -> None:
        self.attention = asyncio.Event()
        """Set when the event loop should look after what is written."""
        self._synchronise = synchronise
        self._urgent = urgent
        self._failed = failed
        self._dirty, self._hurry, self._resume = threading.Event(), threading.Event(), threading.Event()
        self._marked = self._stopping = False
        self._waiters: deque[asyncio.Future[bool]] = deque()

    def mark(self) -> None:
        """Says that something was written."""
        # A plain flag first: setting an event that is set costs a lock each time.
        if not self._marked:
            self._marked = True
            self._dirty.set()

    async def wait(self, seconds: float) -> bool:
        """Waits until everything written so far is on stable storage; False when that fails or takes longer."""
        if len(self._waiters) >= MAX_WAITERS:
            return False
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters.append(waiter)
        self.mark()
        self._hurry.set()
        timer = loop.call_later(seconds, _settle, waiter, False)  # noqa: FBT003 - call_later takes no keywords
        try:
            return await waiter
        finally:
            timer.cancel()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Commits until the block ends; what is written last is the caller's to synchronise."""
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._commit_forever, args=(loop,), name="journal", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping = True
            for event in (self._hurry, self._dirty, self._resume):
                event.set()
            await loop.run_in_executor(None, thread.join)

    def _commit_forever(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            self._dirty.wait()
            self._hurry.wait(COMMIT_SECONDS)
            # In this order: what is written from here on marks the journal again, and an end that is asked for between
            # two of these lines is seen by the last one or by the next wait.
            self._hurry.clear()
            self._dirty.clear()
            self._marked = False
            if self._stopping:
                return
            waiting = len(self._waiters)
            error = self._synchronise()
            if waiting or error or self._urgent():
                waiters = [self._waiters.popleft() for _ in range(waiting)]
                loop.call_soon_threadsafe(self._committed, waiters, error)
            if error is not None:
                self._resume.wait()
                self._resume.clear()

    def _committed(self, waiters: Sequence[asyncio.Future[bool]], error: OSError | None) -> None:
        if error is not None:
            self._failed(error)
            self._resume.set()
        for waiter in waiters:
            _settle(waiter, error is None)
        self.attention.set()


def _settle(waiter: asyncio.Future[bool], durable: bool) -> None:  # noqa: FBT001 - a callback's only argument
    if not waiter.done():
        waiter.set_result(durable)
