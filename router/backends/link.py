"""One multiplexed stream to one model server: all calls of a variant travel on it, several in a frame when they meet.

A unary gRPC call costs four times the CPU of a stream message, so the link keeps one bidirectional stream open and
sends whatever is waiting in one frame. On an idle stream a call goes out at once; while a frame is unanswered, or when
calls come at over 1 500 a second, the next ones gather for 2 ms at most, so that frames fill up under load (RFC 896
does so for bytes, network cards for interrupts). A failure is a result here, not an exception: the caller's answer then
comes from elsewhere. What became of each call is told to the backend's guard; while its breaker is open, the link asks
the model for one row of zeros twice a second and tells the guard as soon as that is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

import grpc
import structlog

from router.backends.guard import DEFAULT_GUARD, Guard, GuardSettings
from router.resilience.breaker import BreakerState
from router.resilience.validity import Bounds
from services.runtime.cancelling import asked_to_end
from services.runtime.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from turnout.v1 import model_pb2

_log = structlog.get_logger(__name__)
_SERVICE: Final = "/turnout.v1.ModelService"
CHANNEL_OPTIONS: Final = (
    # A black-holed backend answers nothing: pings find it within 11 s, and calls time out long before.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    # No pings to estimate bandwidth: on small messages they only cost CPU.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_channelz", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_MAX_FRAME_CALLS: Final = 256
SWEEP_SECONDS: Final = 0.005
"""How late a call's time-out may be noticed; a tenth of what is kept back for the rules."""
HOLD_SECONDS: Final = 0.002
"""How long calls may wait after the frame before them, so that they share the next one."""
BUSY_CALLS_PER_SECOND: Final = 1500.0
"""From this rate on frames keep that distance even when nothing is unanswered: at least three calls share one then."""
RATE_SECONDS: Final = 0.02
_CONNECT_SECONDS: Final = 1.0
KNOCK_SECONDS: Final = 0.5
"""How often a backend with an open breaker is asked for a row of zeros, stretched by up to half by chance."""
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0


class Failure(Enum):
    """Why a call on a link was not answered."""

    UNAVAILABLE = "unavailable"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    ERROR = "error"
    INVALID = "invalid"
    """The answer has another shape than one float32 a row."""
    OVERLOADED = "overloaded"


Values = tuple[float, ...]
Result = Values | Failure
_FAILURES: Final = {
    DeadlineExceeded.code: Failure.TIMEOUT,
    ResourceExhausted.code: Failure.OVERLOADED,
    Unavailable.code: Failure.CONNECTION,
}


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the server at the other end must serve, so that a wrong address never answers for a family."""

    family: str
    schema_digest: int
    row_bytes: int
    """Size of a packed row."""
    low: float = -math.inf
    """Smallest answer that may be used."""
    high: float = math.inf
    """Largest answer that may be used."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the server at the other end says that it serves."""

    variant: str
    version: str
    outputs: int
    bounds: Bounds | None
    """What the variant was trained on; None when its bento does not say."""


class _Sent(NamedTuple):
    """A call under way."""

    future: asyncio.Future[Result]
    rows: int
    began: float
    deadline: float
    probe: bool
    knock: bool
    """The link's own, of which the guard hears otherwise."""


class Link:
    """The stream to one address. `submit` never raises and never blocks; `run` keeps the stream open."""

    channel_options: Sequence[tuple[str, int]] = CHANNEL_OPTIONS

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
        """Set while the stream is open."""
        self.opened = asyncio.Event()
        """Set while the stream is open, for those who wait for it."""
        self._expected = expected
        self._loop = loop
        self._jitter = jitter
        self._channel: grpc.aio.Channel | None = None
        self._under_way: dict[int, _Sent] = {}
        self._knocking: asyncio.TimerHandle | None = None
        self._sweeping = False
        self._waiting: list[tuple[int, int, int, bytes]] = []
        self._wake: asyncio.Future[None] | None = None
        self._unanswered = False
        """Whether a frame is out and nothing has come back since."""
        self._hold: asyncio.TimerHandle | None = None
        self._sent_at = 0.0
        self._rate = 0.0
        """Calls a second, lately."""
        self._next_id = 0

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
        self._send(future, packed, rows, seconds, probe=self.guard.enter(), knock=False)
        return future

    def _send(
        self, future: asyncio.Future[Result], packed: bytes, rows: int, seconds: float, *, probe: bool, knock: bool
    ) -> None:
        call_id = self._note(future, rows, seconds, probe=probe, knock=knock)
        self._waiting.append((call_id, rows, int(seconds * 1000) or 1, packed))
        if self._hold is None:
            since = self._loop.time() - self._sent_at
            if not self._unanswered and (self._rate < BUSY_CALLS_PER_SECOND or since >= HOLD_SECONDS):
                self._wake_writer()
            else:
                self._hold = self._loop.call_later(max(HOLD_SECONDS - since, 0.0), self._release)

    def _note(self, future: asyncio.Future[Result], rows: int, seconds: float, *, probe: bool, knock: bool) -> int:
        """Takes a call among those under way, which `_sweep` ends in time; gives its number."""
        call_id = self._next_id = self._next_id + 1
        now = self._loop.time()
        self._under_way[call_id] = _Sent(future, rows, now, now + seconds, probe, knock)
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_SECONDS, self._sweep)
        return call_id

    async def drained(self, seconds: float) -> None:
        """Waits until no call is under way, at most so long."""
        futures = [sent.future for sent in self._under_way.values() if not sent.future.done()]
        if futures:
            await asyncio.wait(futures, timeout=seconds)

    def _wake_writer(self) -> None:
        if self._wake is not None:
            if not self._wake.done():
                self._wake.set_result(None)
            self._wake = None

    def _release(self) -> None:
        """Lets the next frame go: something came back, or the held calls waited long enough."""
        self._unanswered = False
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        if self._waiting:
            self._wake_writer()

    async def attribute(self, packed: bytes, seconds: float) -> model_pb2.AttributeResponse | Failure:
        """Asks for the Shapley values of one packed row."""
        if self._channel is None or self.served is None:
            return Failure.UNAVAILABLE
        call = self._channel.unary_unary(
            f"{_SERVICE}/Attribute",
            request_serializer=model_pb2.AttributeRequest.SerializeToString,
            response_deserializer=model_pb2.AttributeResponse.FromString,
        )
        try:
            reply: model_pb2.AttributeResponse = await call(model_pb2.AttributeRequest(tensor=packed), timeout=seconds)
        except grpc.aio.AioRpcError as error:
            return Failure.TIMEOUT if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else Failure.ERROR
        return reply

    async def run(self) -> None:
        """Keeps the stream open until cancelled: connects, checks what is served, reads; starts over when it breaks."""
        pause = _FIRST_PAUSE_SECONDS
        while not asked_to_end():
            try:
                async with grpc.aio.insecure_channel(self.address, options=self.channel_options) as channel:
                    self._channel = channel
                    served = await self._check(channel)
                    if served is not None:
                        pause = _FIRST_PAUSE_SECONDS
                        await self._stream(channel, served)
            except grpc.aio.AioRpcError as error:
                _log.info("link broke", address=self.address, code=error.code().name)
            except Exception as error:  # noqa: BLE001 - whatever happens to one connection, the link starts over
                _log.error("link failed", address=self.address, exc_info=error)
            finally:
                self._channel = None
                self._fail_all()
            await asyncio.sleep(pause * (0.5 + self._jitter()))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _check(self, channel: grpc.aio.Channel) -> Served | None:
        call = channel.unary_unary(
            f"{_SERVICE}/GetModel",
            request_serializer=model_pb2.GetModelRequest.SerializeToString,
            response_deserializer=model_pb2.GetModelResponse.FromString,
        )
        model: model_pb2.GetModelResponse = await call(model_pb2.GetModelRequest(), timeout=_CONNECT_SECONDS)
        if model.family != self._expected.family or model.schema_digest != self._expected.schema_digest:
            _log.error(
                "backend serves something else", address=self.address, family=model.family, version=model.version
            )
            return None
        bounds = None
        if len(model.lower_bounds) == len(model.upper_bounds) == self._expected.row_bytes // 4:
            bounds = tuple(zip(model.lower_bounds, model.upper_bounds, strict=True))
        return Served(model.variant, model.version, len(model.outputs), bounds)

    async def _stream(self, channel: grpc.aio.Channel, served: Served) -> None:
        method = channel.stream_stream(
            f"{_SERVICE}/InferStream",
            request_serializer=model_pb2.InferStreamRequest.SerializeToString,
            response_deserializer=model_pb2.InferStreamResponse.FromString,
        )
        call: Any = method()
        await call.wait_for_connection()
        self._opened(served)
        writer = asyncio.create_task(self._write(call))
        # Whatever ends the writer ends the stream: half a link would only let calls time out.
        writer.add_done_callback(lambda _: call.cancel())
        try:
            async for frame in call:
                self._receive(frame, served.outputs * 4)
        finally:
            self.served = None
            self.opened.clear()
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await writer
            call.cancel()

    def _opened(self, served: Served) -> None:
        self.served = served
        self.opened.set()
        self.guard.recovered()
        _log.info("link open", address=self.address, version=served.version)

    async def _write(self, call: Any) -> None:
        """Sends all that waits in one frame, again and again; sleeps when nothing waits or a frame is unanswered."""
        try:
            while True:
                if not self._waiting or self._unanswered:
                    self._wake = self._loop.create_future()
                    await self._wake
                self._note_sending()
                batch, self._waiting = self._waiting[:_MAX_FRAME_CALLS], self._waiting[_MAX_FRAME_CALLS:]
                ids, rows, timeouts, packed = zip(*batch, strict=True)
                frame = model_pb2.InferStreamRequest(
                    call_ids=ids,
                    rows=rows,
                    timeouts_ms=timeouts,
                    tensor=packed[0] if len(packed) == 1 else b"".join(packed),
                )
                await call.write(frame)
        except asyncio.InvalidStateError:
            # The stream ended; the reader sees why and starts over.
            return

    def _note_sending(self) -> None:
        now = self._loop.time()
        gap = max(now - self._sent_at, 1e-6)
        # A mean over the last 20 ms or so; a longer pause forgets all before it.
        self._rate += min(1.0, gap / RATE_SECONDS) * (len(self._waiting) / gap - self._rate)
        self._sent_at = now
        self._unanswered = True

    def _receive(self, frame: model_pb2.InferStreamResponse, row_bytes: int) -> None:
        self._unanswered = False
        if self._rate < BUSY_CALLS_PER_SECOND:
            self._release()
        tensor = frame.tensor
        now = self._loop.time()
        offset = 0
        for call_id, rows in zip(frame.call_ids, frame.rows, strict=True):
            end = offset + rows * row_bytes
            self._answered(call_id, tensor[offset:end], now)
            offset = end
        for failure in frame.failures:
            self._failed(failure.call_id, _FAILURES.get(failure.code, Failure.ERROR), now)

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
        self.served = None
        self.opened.clear()
        self._waiting.clear()
        self._release()
        self._wake = None
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
        self._send(future, bytes(self._expected.row_bytes), 1, seconds, probe=False, knock=True)

    def _heard(self, knocked: asyncio.Future[Result]) -> None:
        if isinstance(knocked.result(), Failure):
            self._mind_breaker()
        else:
            self.guard.recovered()
