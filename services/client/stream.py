"""Many calls over one PredictStream: calls that are ready at the same moment share a frame, answers come in any order.

A call costs one future and one timer; only the stream itself has tasks. The writer never waits for company: it sends
what is there as soon as the transport takes the next frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from services.client.status import Failure, error_of, error_of_result, error_of_rpc
from services.runtime.errors import DeadlineExceeded, InvalidArgument, TurnoutError, Unavailable
from turnout.v1.prediction_pb2 import PredictCall, PredictRequest, PredictResponse, PredictStreamRequest
from turnout.v1.prediction_pb2 import PredictStreamResponse as Frame

MAX_FRAME_CALLS: Final = 256
MAX_FRAME_BYTES: Final = 1 << 20
"""What the router receives at most; a larger frame would end the stream for everybody on it."""
MAX_SENDS: Final = 2
"""A call goes out once more after a broken stream, not for ever: it may be what breaks the router."""
LONGEST_CALL_SECONDS: Final = 5.0

Settled = PredictResponse | Failure
Rpc = grpc.aio.StreamStreamCall[Any, Any]


class Pending:
    """A call under way. Errors travel as results, so that a future nobody awaits any more never complains."""

    __slots__ = ("frame", "future", "give_up_at", "home", "number", "sends")

    def __init__(
        self, number: int, request: PredictRequest, future: asyncio.Future[Settled], give_up_at: float
    ) -> None:
        self.number = number
        # Concatenated messages are one message with all their repeated fields: each call is serialised on its own
        # as a frame of one, and a frame of many is simply the bytes joined.
        self.frame = PredictStreamRequest(calls=[PredictCall(call_id=number, request=request)])
        self.future = future
        self.give_up_at = give_up_at
        self.home: dict[int, Pending] = {}
        """Where it waits: the queue, or the calls of the stream that it was sent on."""
        self.sends = 0

    def settle(self, result: Settled) -> None:
        """Ends the call, unless its caller has left."""
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: TurnoutError) -> None:
        """Ends the call with an error."""
        self.settle(Failure(error, sent=self.sends > 0))

    def expire(self) -> None:
        """Ends the call because its time is up."""
        self.fail(DeadlineExceeded("", "the router did not answer inside the deadline"))

    def serialized(self, now: float) -> bytes:
        """Gives the call as a frame of one; the time left travels with it, in whole milliseconds, at least 1."""
        self.frame.calls[0].timeout_ms = max(1, int((self.give_up_at - now) * 1000))
        return self.frame.SerializeToString()


class Queue:
    """Calls that wait for a stream, oldest first, and the event that wakes its writer."""

    __slots__ = ("calls", "filled")

    def __init__(self) -> None:
        self.calls: dict[int, Pending] = {}
        self.filled = asyncio.Event()

    def add(self, call: Pending) -> None:
        """Appends a call."""
        call.home = self.calls
        self.calls[call.number] = call
        self.filled.set()

    def return_first(self, calls: dict[int, Pending]) -> None:
        """Puts calls of a broken stream back before all others: their time is the shortest."""
        waiting = dict(self.calls)
        self.calls.clear()
        for call in (*calls.values(), *waiting.values()):
            self.add(call)
        calls.clear()

    def take(self, under_way: dict[int, Pending], now: float) -> bytes:
        """Moves the calls of the next frame to those under way and gives the frame; empty when nothing can go."""
        parts: list[bytes] = []
        size = 0
        gone: list[Pending] = []
        for call in self.calls.values():
            part = call.serialized(now)
            if len(part) > MAX_FRAME_BYTES:
                call.fail(InvalidArgument("", f"the call is {len(part)} bytes, the limit is {MAX_FRAME_BYTES}"))
                gone.append(call)
                continue
            if size + len(part) > MAX_FRAME_BYTES or len(parts) == MAX_FRAME_CALLS:
                break
            size += len(part)
            parts.append(part)
            gone.append(call)
            call.home = under_way
            call.sends += 1
            under_way[call.number] = call
        if len(gone) == len(self.calls):
            self.calls.clear()
        else:
            for call in gone:
                del self.calls[call.number]
        return b"".join(parts)


class Stream:
    """One PredictStream. `run` serves it until it ends and gives the error that ended it, None for a plain end."""

    def __init__(self, rpc: Rpc, queue: Queue, clock: Callable[[], float]) -> None:
        self._rpc = rpc
        self._queue = queue
        self._clock = clock
        self._retired = False
        self._idle = asyncio.Event()
        self.under_way: dict[int, Pending] = {}
        self.proved = False
        """Whether the router has answered on it."""

    def retire(self) -> None:
        """Takes no more calls; the stream ends by itself when those under way are answered or out of time."""
        self._retired = True
        self._queue.filled.set()
        if not self.under_way:
            self._idle.set()

    async def run(self) -> TurnoutError | None:
        """Writes and reads until the stream ends."""
        writer = asyncio.create_task(self._write())
        try:
            while (raw := await self._rpc.read()) is not grpc.aio.EOF:
                self._settle(raw)
            code = await self._rpc.code()
        except grpc.aio.AioRpcError as error:
            return error_of_rpc(error)
        except DecodeError:
            return Unavailable("", "the router's frame could not be read")
        else:
            return None if code is grpc.StatusCode.OK else error_of(code.value[0], await self._rpc.details() or "", "")
        finally:
            writer.cancel()
            self._rpc.cancel()
            await asyncio.wait((writer,))

    async def _write(self) -> None:
        queue = self._queue
        try:
            while not self._retired:
                if not queue.calls:
                    queue.filled.clear()
                    await queue.filled.wait()
                elif frame := queue.take(self.under_way, self._clock()):
                    await self._rpc.write(frame)
            try:
                async with asyncio.timeout(LONGEST_CALL_SECONDS):
                    await self._idle.wait()
            except TimeoutError:
                # Whoever had left without an answer is out of time by now.
                self.under_way.clear()
            await self._rpc.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The stream is over: the reader finds out why.
            return

    def _settle(self, raw: Any) -> None:
        self.proved = True
        for result in Frame.FromString(raw).results:
            call = self.under_way.pop(result.call_id, None)
            if call is None:
                # Its caller has left.
                continue
            if result.HasField("prediction"):
                call.settle(result.prediction)
            else:
                call.fail(error_of_result(result.error))
        if self._retired and not self.under_way:
            self._idle.set()
