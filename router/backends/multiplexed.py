"""One multiplexed stream to one of our model servers: all calls travel on it, several in a frame when they meet.

A unary gRPC call costs four times the CPU of a stream message, so the link keeps one bidirectional stream open and
sends whatever is waiting in one frame. On an idle stream a call goes out at once; while a frame is unanswered, or when
calls come at over 1 500 a second, the next ones gather for 2 ms at most, so that frames fill up under load (RFC 896
does so for bytes, network cards for interrupts).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import grpc
import structlog

from router.backends.guard import DEFAULT_GUARD, GuardSettings
from router.backends.link import Link
from router.backends.results import Expectation, Failure, Served
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
HOLD_SECONDS: Final = 0.002
"""How long calls may wait after the frame before them, so that they share the next one."""
BUSY_CALLS_PER_SECOND: Final = 1500.0
"""From this rate on frames keep that distance even when nothing is unanswered: at least three calls share one then."""
RATE_SECONDS: Final = 0.02
_CONNECT_SECONDS: Final = 1.0
_FAILURES: Final = {
    DeadlineExceeded.code: Failure.TIMEOUT,
    ResourceExhausted.code: Failure.OVERLOADED,
    Unavailable.code: Failure.CONNECTION,
}


class MultiplexedLink(Link):
    """The stream to one address."""

    channel_options = CHANNEL_OPTIONS

    def __init__(
        self,
        address: str,
        expected: Expectation,
        *,
        loop: asyncio.AbstractEventLoop,
        jitter: Callable[[], float],
        guard: GuardSettings = DEFAULT_GUARD,
    ) -> None:
        super().__init__(address, expected, loop=loop, jitter=jitter, guard=guard)
        self._channel: grpc.aio.Channel | None = None
        """Set while the stream is open."""
        self._waiting: list[tuple[int, int, int, bytes]] = []
        self._wake: asyncio.Future[None] | None = None
        self._unanswered = False
        """Whether a frame is out and nothing has come back since."""
        self._hold: asyncio.TimerHandle | None = None
        self._sent_at = 0.0
        self._rate = 0.0
        """Calls a second, lately."""

    async def attribute(self, packed: bytes, seconds: float) -> model_pb2.AttributeResponse | Failure:
        """Asks for the Shapley values of one packed row."""
        if self._channel is None:
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

    async def _serve(self, channel: grpc.aio.Channel, served: Served) -> None:
        method = channel.stream_stream(
            f"{_SERVICE}/InferStream",
            request_serializer=model_pb2.InferStreamRequest.SerializeToString,
            response_deserializer=model_pb2.InferStreamResponse.FromString,
        )
        call: Any = method()
        await call.wait_for_connection()
        self._channel = channel
        self._open(served)
        writer = asyncio.create_task(self._write(call))
        # Whatever ends the writer ends the stream: half a link would only let calls time out.
        writer.add_done_callback(lambda _: call.cancel())
        try:
            async for frame in call:
                self._receive(frame, served.outputs * 4)
        finally:
            self._channel = None
            self._close()
            self._forget()
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await writer
            call.cancel()

    def _send(self, call_id: int, packed: bytes, rows: int, seconds: float) -> None:
        self._waiting.append((call_id, rows, int(seconds * 1000) or 1, packed))
        if self._hold is None:
            since = self._loop.time() - self._sent_at
            if not self._unanswered and (self._rate < BUSY_CALLS_PER_SECOND or since >= HOLD_SECONDS):
                self._wake_writer()
            else:
                self._hold = self._loop.call_later(max(HOLD_SECONDS - since, 0.0), self._release)

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

    def _release(self) -> None:
        """Lets the next frame go: something came back, or the held calls waited long enough."""
        self._unanswered = False
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        if self._waiting:
            self._wake_writer()

    def _wake_writer(self) -> None:
        if self._wake is not None:
            if not self._wake.done():
                self._wake.set_result(None)
            self._wake = None

    def _forget(self) -> None:
        """Starts over with nothing to send: the stream ended, and what was under way with it."""
        self._waiting.clear()
        self._release()
        self._wake = None
