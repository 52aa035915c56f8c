"""A router that a test directs, served as the real one is: what the client's tests stand on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from services.runtime.call import Call
from services.runtime.errors import NotFound, TurnoutError
from services.runtime.grpc_binding import bind
from services.runtime.identity import Identify, everybody
from services.runtime.serving import Server, serving
from tests.integration.batches import reply_of, rows_of
from turnout.v1 import prediction_pb2 as pb

ROW: dict[str, float | str | bool] = {"severity": 4, "distance_km": 2.5, "call_type": "cardiac"}
Said = pb.PredictResponse | TurnoutError | None


def echo(request: pb.PredictRequest) -> Said:
    """The well-behaved router: the severity is the value."""
    return pb.PredictResponse(
        decision_id=request.decision_id,
        value=request.numbers["severity"],
        served_variant="fake",
        assignment=pb.Assignment(arm="candidate", propensity=0.5, reason=pb.ASSIGNMENT_REASON_HASH, revision=7),
    )


def silent(_: pb.PredictRequest) -> Said:
    """The router that has stopped answering."""
    return None


def call_error(error: TurnoutError) -> pb.CallError:
    """The error as it stands inside a stream or a list."""
    return pb.CallError(code=error.code, message=error.message, field=error.field)


@dataclass
class FakeRouter:
    """A PredictionService whose answers a test chooses; `behaviour` gives None to stay silent."""

    behaviour: Callable[[pb.PredictRequest], Said] = echo
    outcome: Callable[[pb.RecordOutcomeRequest], TurnoutError | None] = lambda _: None
    frames: list[int] = field(default_factory=list)
    """Calls of each frame that came."""
    calls: list[pb.PredictCall] = field(default_factory=list)
    requests: list[pb.PredictRequest] = field(default_factory=list)
    outcomes: list[pb.RecordOutcomeRequest] = field(default_factory=list)
    streams: list[asyncio.Queue[pb.PredictStreamResponse | None]] = field(default_factory=list)
    streams_opened: int = 0
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until a condition on what arrived holds."""
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(condition)

    async def _notify(self) -> None:
        async with self.arrived:
            self.arrived.notify_all()

    def end_streams(self) -> None:
        """Ends all streams, whatever is under way on them."""
        for replies in self.streams:
            replies.put_nowait(None)

    def answer(self, call: pb.PredictCall) -> None:
        """Answers a call by hand, on the newest stream."""
        said = echo(call.request)
        assert isinstance(said, pb.PredictResponse)
        result = pb.PredictResult(call_id=call.call_id, prediction=said)
        self.streams[-1].put_nowait(pb.PredictStreamResponse(results=[result]))

    async def predict(self, request: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        said = self.behaviour(request)
        self.requests.append(request)
        await self._notify()
        if isinstance(said, TurnoutError):
            raise said
        if said is None:
            await asyncio.sleep(call.time_left() or 0)
            raise TimeoutError
        return said

    async def predict_batch(self, request: pb.PredictBatchRequest, call: Call) -> pb.PredictBatchResponse:
        return reply_of([await self.predict(row, call) for row in rows_of(request)])

    async def predict_stream(
        self, requests: AsyncIterator[pb.PredictStreamRequest], _: Call
    ) -> AsyncIterator[pb.PredictStreamResponse]:
        replies: asyncio.Queue[pb.PredictStreamResponse | None] = asyncio.Queue()
        self.streams.append(replies)
        self.streams_opened += 1
        reader = asyncio.create_task(self._read(requests, replies))
        await self._notify()
        try:
            while (reply := await replies.get()) is not None:
                yield reply
        finally:
            self.streams.remove(replies)
            reader.cancel()
            await asyncio.wait((reader,))
            if not reader.cancelled():
                reader.exception()

    async def _read(
        self,
        requests: AsyncIterator[pb.PredictStreamRequest],
        replies: asyncio.Queue[pb.PredictStreamResponse | None],
    ) -> None:
        async for frame in requests:
            self.frames.append(len(frame.calls))
            reply = pb.PredictStreamResponse()
            for call in frame.calls:
                self.calls.append(call)
                self.requests.append(call.request)
                said = self.behaviour(call.request)
                if isinstance(said, TurnoutError):
                    reply.results.add(call_id=call.call_id, error=call_error(said))
                elif said is not None:
                    reply.results.add(call_id=call.call_id, prediction=said)
            if reply.results:
                replies.put_nowait(reply)
            await self._notify()
        replies.put_nowait(None)

    async def explain(self, request: pb.ExplainRequest, _: Call) -> pb.ExplainResponse:
        if request.request.family != "dispatch":
            raise NotFound("family", "there is no such family")
        contribution = pb.Contribution(feature="severity", value="4", contribution=0.25)
        return pb.ExplainResponse(
            value=0.75, base_value=0.5, variant=request.variant, model_version="fake:1", contributions=[contribution]
        )

    async def record_outcome(self, request: pb.RecordOutcomeRequest, _: Call) -> pb.RecordOutcomeResponse:
        raise NotImplementedError(request)

    async def record_outcomes(self, request: pb.RecordOutcomesRequest, _: Call) -> pb.RecordOutcomesResponse:
        reply = pb.RecordOutcomesResponse()
        for outcome in request.outcomes:
            self.outcomes.append(outcome)
            error = self.outcome(outcome)
            if error is None:
                reply.results.add(accepted=pb.RecordOutcomeResponse(durability=pb.DURABILITY_DURABLE))
            else:
                reply.results.add(error=call_error(error))
        await self._notify()
        return reply


@contextlib.asynccontextmanager
async def routing(
    router: FakeRouter, address: str = "127.0.0.1:0", *, identify: Identify = everybody, drain_seconds: float = 0.0
) -> AsyncIterator[Server]:
    """Serves a fake router; like the real one it ends its streams when it drains."""

    def handlers(server: Server) -> Sequence[object]:
        drains.append(asyncio.create_task(_end_when_stopping(server, router)))
        return [bind(pb.DESCRIPTOR.services_by_name["PredictionService"], router, identify=identify)]

    drains: list[asyncio.Task[None]] = []
    async with serving(handlers, address, drain_seconds=drain_seconds) as server:  # type: ignore[arg-type]
        yield server
    await asyncio.wait(drains)


async def _end_when_stopping(server: Server, router: FakeRouter) -> None:
    await server.stopping.wait()
    router.end_streams()
