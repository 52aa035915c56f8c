"""A link to one backend: keeps the connection open, knows the calls under way, and ends each of them in time.

A failure is a result here, not an exception: the caller's answer then comes from elsewhere. What became of each call is
told to the backend's guard; while its breaker is open, the link asks the model for one row of zeros twice a second and
tells the guard as soon as that is answered. How calls travel is for the two kinds of link to say:
`router.backends.multiplexed` to our own model servers, `router.backends.open_inference` to any other.
"""

from __future__ import annotations

import asyncio
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import grpc
import structlog

from router.backends.guard import DEFAULT_GUARD, Guard, GuardSettings
from router.backends.results import Expectation, Failure, Result, Served
from router.resilience.breaker import BreakerState
from services.runtime.cancelling import asked_to_end
from turnout.v1 import model_pb2

_log = structlog.get_logger(__name__)
SWEEP_SECONDS: Final = 0.005
"""How late a call's time-out may be noticed; a tenth of what is kept back for the rules."""
KNOCK_SECONDS: Final = 0.5
"""How often a backend with an open breaker is asked for a row of zeros, stretched by up to half by chance."""
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0


class _Sent(NamedTuple):
    """A call under way."""

    future: asyncio.Future[Result]
    rows: int
    began: float
    deadline: float
    probe: bool
    knock: bool
    """The link's own, of which the guard hears otherwise."""


class Link(ABC):
    """The connection to one address. `submit` never raises and never blocks; `run` keeps the connection open."""

    channel_options: Sequence[tuple[str, int]]

    def __init__(
        self,
        address: str,
        expected: Expectation,
        *,
        loop: asyncio.AbstractEventLoop,
        jitter: Callable[[], float],
        guard: GuardSettings = DEFAULT_GUARD,
    ) -> None:
        self.address = address
        self.guard = Guard(guard, jitter)
        self.served: Served | None = None
        """Set while calls can be sent."""
        self.opened = asyncio.Event()
        """Set while calls can be sent, for those who wait for it."""
        self._expected = expected
        self._loop = loop
        self._jitter = jitter
        self._under_way: dict[int, _Sent] = {}
        self._knocking: asyncio.TimerHandle | None = None
        self._sweeping = False
        self._next_id = 0

    @abstractmethod
    async def attribute(self, packed: bytes, seconds: float) -> model_pb2.AttributeResponse | Failure:
        """Asks for the Shapley values of one packed row."""

    @abstractmethod
    async def _check(self, channel: grpc.aio.Channel) -> Served | None:
        """Asks what is served at the other end; None when it is something else, or not ready."""

    @abstractmethod
    async def _serve(self, channel: grpc.aio.Channel, served: Served) -> None:
        """Calls `_open`, and returns or raises when calls can be sent no more."""

    @abstractmethod
    def _send(self, call_id: int, packed: bytes, rows: int, seconds: float) -> None:
        """Sends a call; `_answered` or `_failed` hear of it later, unless its time is over before."""

    @property
    def in_flight(self) -> int:
        """Calls that were submitted and not answered yet."""
        return len(self._under_way)

    def configure(self, guard: GuardSettings) -> None:
        """Takes other settings for the guard, which then starts over; the same ones change nothing."""
        if guard != self.guard.settings:
            self.guard = Guard(guard, self._jitter)

    def submit(self, packed: bytes, rows: int, seconds: float) -> asyncio.Future[Result]:
        """Asks for the outputs of `rows` packed rows; gives one value a row, or why there are none.

        The caller has looked at the guard and at `served`; values may still be NaN or out of the target's range.
        """
        future: asyncio.Future[Result] = self._loop.create_future()
        if self.served is None:
            future.set_result(Failure.UNAVAILABLE)
            return future
        self._send(self._note(future, rows, seconds, probe=self.guard.enter(), knock=False), packed, rows, seconds)
        return future

    async def drained(self, seconds: float) -> None:
        """Waits until no call is under way, at most so long."""
        futures = [sent.future for sent in self._under_way.values() if not sent.future.done()]
        if futures:
            await asyncio.wait(futures, timeout=seconds)

    async def run(self) -> None:
        """Keeps the connection open until cancelled: connects, checks what is served; starts over when it breaks."""
        pause = _FIRST_PAUSE_SECONDS
        while not asked_to_end():
            try:
                async with grpc.aio.insecure_channel(self.address, options=self.channel_options) as channel:
                    served = await self._check(channel)
                    if served is not None:
                        pause = _FIRST_PAUSE_SECONDS
                        await self._serve(channel, served)
            except grpc.aio.AioRpcError as error:
                _log.info("link broke", address=self.address, code=error.code().name)
            except Exception as error:  # noqa: BLE001 - whatever happens to one connection, the link starts over
                _log.error("link failed", address=self.address, exc_info=error)
            finally:
                self._fail_all()
            await asyncio.sleep(pause * (0.5 + self._jitter()))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _open(self, served: Served) -> None:
        self.served = served
        self.opened.set()
        self.guard.recovered()
        _log.info("link open", address=self.address, version=served.version)

    def _close(self) -> None:
        self.served = None
        self.opened.clear()

    def _note(self, future: asyncio.Future[Result], rows: int, seconds: float, *, probe: bool, knock: bool) -> int:
        """Takes a call among those under way, which `_sweep` ends in time; gives its number."""
        call_id = self._next_id = self._next_id + 1
        now = self._loop.time()
        self._under_way[call_id] = _Sent(future, rows, now, now + seconds, probe, knock)
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_SECONDS, self._sweep)
        return call_id

    def _answered(self, call_id: int, output: bytes, now: float) -> None:
        sent = self._under_way.pop(call_id, None)
        if sent is None:
            return
        result: Result = Failure.INVALID
        usable = False
        if len(output) == 4 * sent.rows:
            result = struct.unpack(f"<{sent.rows}f", output)
            low, high = self._expected.low, self._expected.high
            # NaN fails this comparison as well.
            if sent.rows == 1:
                usable = low <= result[0] <= high
            else:
                # A sum is finite only if all values are numbers; min and max alone do not see every NaN.
                usable = math.isfinite(sum(result)) and low <= min(result) and max(result) <= high
        if sent.knock:
            result = result if usable else Failure.INVALID
        else:
            self.guard.answered(now, now - sent.began, len(self._under_way) + 1, usable=usable, probe=sent.probe)
            if not usable:
                self._mind_breaker()
        if not sent.future.done():
            sent.future.set_result(result)

    def _failed(self, call_id: int, failure: Failure, now: float) -> None:
        sent = self._under_way.pop(call_id, None)
        if sent is None:
            return
        if not sent.knock:
            under_way = len(self._under_way) + 1
            match failure:
                case Failure.TIMEOUT:
                    self.guard.late(now, sent.deadline - sent.began, under_way, probe=sent.probe)
                case Failure.OVERLOADED:
                    self.guard.refused(now, under_way, probe=sent.probe)
                case _:
                    self.guard.failed(now, probe=sent.probe)
            self._mind_breaker()
        if not sent.future.done():
            sent.future.set_result(failure)

    def _sweep(self) -> None:
        """Ends the calls whose time is over. One timer for all of them: a timer a call costs more than its answer."""
        now = self._loop.time()
        for call_id in [number for number, sent in self._under_way.items() if sent.deadline <= now]:
            self._failed(call_id, Failure.TIMEOUT, now)
        self._sweeping = bool(self._under_way)
        if self._sweeping:
            self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _fail_all(self) -> None:
        """Fails what is under way when the connection broke, which counts as one failure however many calls it had."""
        self._close()
        ended, self._under_way = list(self._under_way.values()), {}
        asked = [sent for sent in ended if not sent.knock]
        if asked:
            self.guard.failed(self._loop.time(), probe=any(sent.probe for sent in asked))
        for sent in ended:
            if not sent.future.done():
                sent.future.set_result(Failure.CONNECTION)

    def _mind_breaker(self) -> None:
        """Begins to knock when the breaker is open: the backend must be found well soon after it is."""
        if self.guard.state is BreakerState.OPEN and self._knocking is None:
            pause = KNOCK_SECONDS * (1 + 0.5 * self._jitter())
            self._knocking = self._loop.call_later(pause, self._knock)

    def _knock(self) -> None:
        self._knocking = None
        # A link that is not open knocks by connecting.
        if self.served is None or self.guard.state is not BreakerState.OPEN:
            return
        future: asyncio.Future[Result] = self._loop.create_future()
        future.add_done_callback(self._heard)
        seconds = max(KNOCK_SECONDS, 2 * (self.guard.latency.p95 or 0.0))
        self._send(self._note(future, 1, seconds, probe=False, knock=True), bytes(self._expected.row_bytes), 1, seconds)

    def _heard(self, knocked: asyncio.Future[Result]) -> None:
        if isinstance(knocked.result(), Failure):
            self._mind_breaker()
        else:
            self.guard.recovered()
