"""More calls than the router may have under way: ordinary ones are refused at once, critical ones answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from inference import open_inference_pb2
from router.resilience.reasons import Fallback
from router.servicer import MAX_STREAM_CALLS, _Stream
from services.client import TurnoutClient
from services.runtime.errors import ResourceExhausted
from tests.integration.platform_under_test import ROW, Caller, Platform, platform
from turnout.v1 import prediction_pb2

LIMIT = 4


@contextlib.asynccontextmanager
async def full(*, critical: bool) -> AsyncIterator[tuple[Platform, list[asyncio.Task[Any]]]]:
    """A router that has as many calls under way as it may; its model is silent."""
    router = {"grpc": "127.0.0.1:0", "metrics": "127.0.0.1:0", "max_concurrent_calls": LIMIT}
    async with platform(router=router) as p:
        given = p.config["families"]["dispatch"]
        p.write(families={"dispatch": {**given, "critical": critical}})
        async with asyncio.timeout(10):
            while p.router.decider.table.routes["dispatch"].critical is not critical:
                await asyncio.sleep(0.005)
        p.model.behaviour = lambda _: None
        calls = [asyncio.create_task(p.call.predict(timeout=3.0)) for _ in range(LIMIT)]
        link = p.router.decider.table.routes["dispatch"].pools["fake"].links[0]
        async with asyncio.timeout(10):
            while link.in_flight < LIMIT:
                await asyncio.sleep(0.001)
        yield p, calls
        await asyncio.gather(*calls)


async def test_an_ordinary_call_without_room_is_refused_with_a_hint() -> None:
    """By both services; those that were let in are answered; afterwards there is room again."""
    async with full(critical=False) as (p, calls):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await p.call.predict()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(refused.value.trailing_metadata() or ())["retry-after-ms"]) >= 50
        oip = Caller(p.router.server.address, open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"])
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await oip("ModelInfer", open_inference_pb2.ModelInferRequest(model_name="dispatch"))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await oip.close()
        assert {Fallback(answer.fallback) for answer in await asyncio.gather(*calls)} == {Fallback.TIMEOUT}
        assert (await p.call.predict(timeout=0.3)).served_variant == "rules"


async def test_calls_of_a_stream_are_let_in_one_by_one() -> None:
    """Each refused call of a frame has its own error with the hint; the stream goes on."""
    async with full(critical=False) as (p, _):
        stream = p.call.method("PredictStream")()
        request = prediction_pb2.PredictRequest(family="dispatch", numbers=ROW)
        calls = [prediction_pb2.PredictCall(call_id=number, request=request) for number in (1, 2)]
        await stream.write(prediction_pb2.PredictStreamRequest(calls=calls))
        frame = await stream.read()
        assert [result.error.code for result in frame.results] == [grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]] * 2
        assert all(result.error.retry_after_ms >= 50 for result in frame.results)
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_critical_calls_are_answered_whatever_the_load() -> None:
    """The one over the limit gets the rules' answer at once, alone, in a batch and in a stream."""
    async with full(critical=True) as (p, _):
        more = asyncio.create_task(p.call.predict(timeout=3.0))
        answers = await asyncio.gather(*(p.call.predict() for _ in range(50)))
        assert {answer.served_variant for answer in answers} == {"rules"}
        assert Fallback.SHED in {Fallback(answer.fallback) for answer in answers}
        batch = prediction_pb2.PredictBatchRequest(family="dispatch", rows=2)
        batch.numbers["severity"].values.extend([1.0, 2.0])
        assert len((await p.call("PredictBatch", batch)).values) == 2
        stream = p.call.method("PredictStream")()
        request = prediction_pb2.PredictRequest(family="dispatch", numbers=ROW)
        calls = [prediction_pb2.PredictCall(call_id=number, request=request) for number in range(50)]
        await stream.write(prediction_pb2.PredictStreamRequest(calls=calls))
        results: list[prediction_pb2.PredictResult] = []
        while len(results) < 50:
            results += (await stream.read()).results
        assert all(result.HasField("prediction") for result in results)
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        await more


async def test_the_client_hears_the_hint() -> None:
    """On a stream and on unary calls alike."""
    async with full(critical=False) as (p, _):
        for transport in ("stream", "unary"):
            async with TurnoutClient(p.router.server.address, fallback=False, transport=transport) as client:
                with pytest.raises(ResourceExhausted) as refused:
                    await client.predict("dispatch", ROW)
                assert refused.value.retry_after >= 0.05
                assert client.statistics.refused_by_router == 1


class Refusing:
    """In the place of PredictionService: refuses every call of a frame."""

    def __init__(self) -> None:
        self.frames = 0

    def take_frame(
        self, frame: prediction_pb2.PredictStreamRequest, _call: object, _room: int
    ) -> tuple[list[Any], list[prediction_pb2.PredictResult]]:
        self.frames += 1
        return [], [prediction_pb2.PredictResult(call_id=entry.call_id) for entry in frame.calls]


async def test_a_caller_that_writes_and_does_not_read_is_waited_for() -> None:
    """Its results do not pile up: no more of its frames are read, until it reads."""
    service, total = Refusing(), 40
    frame = prediction_pb2.PredictStreamRequest(calls=[prediction_pb2.PredictCall(call_id=i) for i in range(1000)])

    async def frames() -> AsyncIterator[prediction_pb2.PredictStreamRequest]:
        for _ in range(total):
            yield frame

    stream = _Stream(service, None)  # type: ignore[arg-type]
    reader = asyncio.create_task(stream.read(frames()))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert service.frames == -(-MAX_STREAM_CALLS // 1000)
    got = 0
    async for results in stream.results(reader):
        got += len(results)
    assert got == total * 1000
