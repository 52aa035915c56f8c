"""The link to the router: keeps one connection up, renews it before the router ends it, and loses no call on the way.

The router ends connections after 60 seconds and streams when it drains. The link makes a new connection before that,
moves to it, and lets the old one finish; calls on a stream that broke are sent again once on the next, under the same
decision id, so that the router answers them as one decision.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Final

from services.client.backoff import Backoff
from services.client.connection import Connection, Endpoint, connect
from services.client.status import CALLERS_OWN, Failure
from services.client.stream import LONGEST_CALL_SECONDS, MAX_SENDS, Pending, Queue, Settled
from services.runtime.cancelling import asked_to_end
from services.runtime.errors import ResourceExhausted, TurnoutError, Unavailable
from turnout.v1.prediction_pb2 import PredictRequest

_RENEW_JITTER: Final = 0.1
_UNARY_SENDS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """How the link behaves; times in seconds."""

    backoff: Backoff = field(default_factory=Backoff)
    renew_after: float = 45.0
    """Age at which a connection is renewed, ± 10 %: under the router's 60 seconds."""
    away_after: float = 0.25
    """The router counts as away once it was unreachable for so long: calls are answered locally at once."""
    max_calls: int = 10_000
    """Calls under way at once; more are refused."""


class Link:
    """Keeps the connection while `run` runs. A `patient` link is never away: calls wait for their own deadline."""

    def __init__(self, endpoint: Endpoint, settings: LinkSettings, chance: Random, *, patient: bool) -> None:
        self._patient = patient
        self._endpoint = endpoint
        self._settings = settings
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._queue = Queue()
        self._numbers = itertools.count(1)
        self._calls = 0
        self._connection: Connection | None = None
        self._open: set[Connection] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._refusal: TurnoutError | None = None
        self._away = False
        self._away_timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self.connections = 0
        """Connections made so far."""
        self.resent = 0
        """Calls that were sent again after a broken stream."""

    @property
    def under_way(self) -> int:
        """Stream calls under way, queued ones included."""
        return self._calls

    async def exchange(self, request: PredictRequest, give_up_at: float) -> Settled:
        """Makes one call over the stream; gives the router's answer, or why there is none by `give_up_at`."""
        if (reason := self._closed_for_calls()) is not None:
            return Failure(reason, sent=False)
        if self._calls >= self._settings.max_calls:
            limit = self._settings.max_calls
            return Failure(ResourceExhausted("", f"over {limit} calls are under way in this client"), sent=False)
        call = Pending(next(self._numbers), request, self._loop.create_future(), give_up_at)
        self._calls += 1
        self._queue.add(call)
        timer = self._loop.call_at(give_up_at, call.expire)
        try:
            return await call.future
        finally:
            timer.cancel()
            call.home.pop(call.number, None)
            self._calls -= 1

    async def ask(self, method: str, payload: bytes, give_up_at: float) -> bytes | Failure:
        """Makes one unary call; sent again once, on another connection, when the first was away or broke."""
        sent = False
        for attempt in range(_UNARY_SENDS):
            if attempt:
                await asyncio.sleep(self._settings.backoff.delay(attempt, self._chance))
            connection = await self._connected(give_up_at)
            if isinstance(connection, TurnoutError):
                return Failure(connection, sent=sent)
            sent = True
            try:
                return await connection.ask(method, payload, give_up_at - self._loop.time())
            except Unavailable as unavailable:
                error: TurnoutError = unavailable
                if not connection.is_ready() and connection is self._connection:
                    # Known before its own watch says so; the next attempt must not go the same way.
                    self._lost(connection)
                    connection.ended.cancel()
            except TurnoutError as other:
                return Failure(other, sent=True)
        return Failure(error, sent=True)

    async def run(self) -> None:
        """Keeps a connection up until it is cancelled; then closes everything."""
        self._went_down()
        try:
            await self._keep()
        finally:
            await self._close()

    async def _keep(self) -> None:
        failures = 0
        while not asked_to_end():
            fresh = await self._attempt()
            if fresh is not None:
                self._use(fresh)
            held = self._connection
            if held is not None:
                # Old age ends the wait as well: the next connection is made while this one still serves.
                pause = self._renewal() if fresh else self._settings.backoff.delay(failures, self._chance)
                await asyncio.wait((held.ended,), timeout=pause)
                if not held.ended.done():
                    failures = 0 if fresh else failures + 1
                    continue
                failures = 0 if self._was_good(held) else failures + 1
            else:
                failures += 1
            await asyncio.sleep(self._settings.backoff.delay(failures, self._chance))

    async def _attempt(self) -> Connection | None:
        try:
            return await connect(self._endpoint, self._queue, self._loop.time)
        except Unavailable:
            return None

    def _use(self, fresh: Connection) -> None:
        previous, self._connection = self._connection, fresh
        self.connections += 1
        self._refusal = None
        self._away = False
        if self._away_timer is not None:
            self._away_timer.cancel()
            self._away_timer = None
        self._queue.filled.set()
        self._announce()
        self._open.add(fresh)
        fresh.ended.add_done_callback(lambda _: self._lost(fresh))
        if previous is not None:
            self._close_later(previous.retire())

    def _lost(self, connection: Connection) -> None:
        """Takes note that a connection ended, whether in use or retired."""
        self._open.discard(connection)
        if connection is self._connection:
            self._connection = None
            self._went_down()
            self._close_later(connection.close(LONGEST_CALL_SECONDS))
        self._recover(connection)

    def _close_later(self, closing: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _recover(self, connection: Connection) -> None:
        """Sends the calls of a connection that ended again, or fails those for which that is no use."""
        error = connection.error()
        if isinstance(error, CALLERS_OWN):
            # The router refuses this caller: every call shares the reason, and none may be answered in its stead.
            self._refusal = error
            for call in (*connection.under_way.values(), *self._queue.calls.values()):
                call.fail(error)
            connection.under_way.clear()
            self._queue.calls.clear()
            self._announce()
            return
        again: dict[int, Pending] = {}
        for number, call in connection.under_way.items():
            if call.sends < MAX_SENDS and not self._away:
                again[number] = call
            else:
                call.fail(error or Unavailable("", "the router ended the stream without an answer"))
        connection.under_way.clear()
        self.resent += len(again)
        self._queue.return_first(again)

    def _went_down(self) -> None:
        self._announce()
        if not self._patient and self._away_timer is None and not self._away:
            self._away_timer = self._loop.call_later(self._settings.away_after, self._give_up)

    def _give_up(self) -> None:
        self._away_timer = None
        self._away = True
        self._announce()
        for call in self._queue.calls.values():
            call.fail(self._unavailable())
        self._queue.calls.clear()

    def _closed_for_calls(self) -> TurnoutError | None:
        if self._refusal is not None:
            # A fresh instance: one that is raised again and again would collect every caller's traceback.
            return type(self._refusal)(self._refusal.field, self._refusal.message)
        return self._unavailable() if self._away else None

    async def _connected(self, until: float) -> Connection | TurnoutError:
        while self._connection is None:
            if (reason := self._closed_for_calls()) is not None:
                return reason
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                return self._unavailable()
        return self._connection

    def _unavailable(self) -> Unavailable:
        return Unavailable("", f"the router at {self._endpoint.target} is away")

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _renewal(self) -> float:
        return self._settings.renew_after * (1.0 + _RENEW_JITTER * (2.0 * self._chance.random() - 1.0))

    def _was_good(self, connection: Connection) -> bool:
        return connection.proved or self._loop.time() - connection.opened_at > self._settings.backoff.limit

    async def _close(self) -> None:
        self._refusal = self._refusal or Unavailable("", "the client was closed")
        if self._away_timer is not None:
            self._away_timer.cancel()
        held, self._connection = self._connection, None
        for call in (*self._queue.calls.values(), *(held.under_way.values() if held else ())):
            call.fail(Unavailable("", "the client was closed"))
        self._announce()
        for connection in tuple(self._open):
            await connection.close()
        if self._closing:
            await asyncio.wait(tuple(self._closing))
