"""Connections that may wait only so long for their next request, so that idle ones cannot keep others out.

uvicorn waits for ever for the first request of a connection, and for the rest of one that has begun; and what waits
counts towards the number of connections that it serves. 256 connections without a word would shut everybody out.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS: Final = 10.0
"""From the opening of a connection, or from the end of an answer, to the end of the next request's headers."""
LIMIT: Final = 256
"""Connections and requests at once; who comes over it hears 503."""
CROWDED: Final = 192
"""From so many connections on, a new one takes the place of the one that has waited longest for its request."""


class Connection(H11Protocol):
    """A connection of HTTP/1.1.

    Args:
        seconds: how long it may be without a request.
        crowded: from how many connections on the longest waiting one is ended.
        given: what uvicorn gives.
    """

    def __init__(self, *, seconds: float = REQUEST_SECONDS, crowded: int = CROWDED, **given: Any) -> None:
        super().__init__(**given)
        self._seconds, self._crowded = seconds, crowded
        self.waits_since: float | None = None
        """When it began to wait for a request; None once it is to be ended."""
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait, where others have waited longest in their place."""
        if len(self.connections) >= self._crowded:
            waiting = [one for one in self.connections if isinstance(one, Connection) and one.idle]
            if waiting:
                min(waiting, key=lambda one: one.waits_since or 0.0).give_up()
        super().connection_made(transport)
        self.waits_since = self.loop.time()
        self._look = self.loop.call_later(self._seconds, self._look_again)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops looking."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begins to wait again."""
        self.waits_since = self.loop.time()
        super().on_response_complete()

    @property
    def idle(self) -> bool:
        """Whether it waits for a request, or to be closed: none is being answered."""
        cycle: Any = self.cycle  # None before the first request, whatever its declared type says
        done = cycle is None or cycle.response_complete or self.transport.is_closing()
        return self.waits_since is not None and done

    def give_up(self) -> None:
        """Ends it, whatever is still to be sent."""
        self.waits_since = None
        self.transport.abort()

    def _look_again(self) -> None:
        if self.waits_since is None:
            return
        left = self._seconds
        if self.idle:
            left = self.waits_since + self._seconds - self.loop.time()
        if left <= 0:
            self.give_up()
        else:
            self._look = self.loop.call_later(left, self._look_again)
