"""The model server in process: inference streams, Shapley values, health and the drain."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry

from services.model_server.batching import Limits
from services.model_server.bootstrap import load, model_server
from services.model_server.engine import Engine
from services.runtime.errors import INTERNAL, DeadlineExceeded, InvalidArgument
from services.runtime.serving import Server
from tests.integration.model_under_test import (
    FEATURES,
    MODEL_SERVICE,
    OPEN_INFERENCE,
    Caller,
    calling,
    frame,
    linear,
    results,
    rows,
    write_bento,
)
from turnout.v1 import model_pb2

TRAINED = linear()
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
IN_WORKER = Limits(inline_seconds=-1.0)


@dataclass
class Gated:
    """An engine that waits for the test before each run; it breaks on a batch whose first value is 666."""

    engine: Engine
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)

    @property
    def features(self) -> int:
        return self.engine.features

    @property
    def outputs(self) -> int:
        return self.engine.outputs

    def infer(self, packed: bytes | memoryview, count: int) -> bytes:
        self.entered.set()
        assert self.gate.wait(20)
        if (np.frombuffer(packed, "<f4") == 666).any():
            raise ArithmeticError("/secret/path is broken")
        return self.engine.infer(packed, count)


@dataclass
class Running:
    """A running server and a channel to it."""

    server: Server
    caller: Caller
    registry: CollectorRegistry
    engine: Engine

    def counted(self, result: str) -> float:
        return self.registry.get_sample_value("turnout_model_calls_total", {"result": result}) or 0.0


@contextlib.asynccontextmanager
async def running(folder: Path, *, gated: bool = False, drain_seconds: float = 10.0) -> AsyncIterator[Running]:
    """Serves the linear model on a free port."""
    bundle, engine = load(write_bento(folder, TRAINED))
    registry = CollectorRegistry()
    used = Gated(engine) if gated else engine
    loop = asyncio.get_running_loop()
    async with (
        model_server(
            bundle,
            used,
            "127.0.0.1:0",
            registry=registry,
            clock=loop.time,
            drain_seconds=drain_seconds,
            limits=IN_WORKER if gated else Limits(),
        ) as server,
        calling(server.address) as caller,
    ):
        yield Running(server, caller, registry, used)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as started:
        yield started


async def test_calls_of_a_frame_and_of_many_frames_get_their_own_answers(here: Running) -> None:
    """Whatever was coalesced: each call's rows are answered in its own order, to the last bit of float32's noise."""
    calls = [rows(count, seed=count) for count in (1, 1, 3, 31, 1, 200, 1000, 1, 5)]
    stream = here.caller.stream()
    await stream.write(frame(0, calls[:4]).SerializeToString())
    await stream.write(frame(4, calls[4:]).SerializeToString())
    answers, failures = await results(stream, len(calls))
    assert not failures
    for call_id, call in enumerate(calls):
        np.testing.assert_allclose(answers[call_id], TRAINED.answers(call), atol=1e-6)
    assert here.counted("ok") == len(calls)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_streams_do_not_mix(here: Running) -> None:
    """The same call number on two streams means two calls."""
    streams = [here.caller.stream() for _ in range(5)]
    inputs = [rows(3, seed=index) for index in range(5)]
    for stream, values in zip(streams, inputs, strict=True):
        await stream.write(frame(1, [values]).SerializeToString())
    for stream, values in zip(streams, inputs, strict=True):
        answers, _ = await results(stream, 1)
        np.testing.assert_allclose(answers[1], TRAINED.answers(values), atol=1e-6)


async def test_a_bad_frame_fails_its_calls_and_the_stream_goes_on(here: Running) -> None:
    """Each sentence names the field and what it must be."""
    stream = here.caller.stream()
    short = frame(1, [rows(2)])
    short.tensor = short.tensor[:-1]
    uneven = frame(2, [rows(1)])
    uneven.rows.append(1)
    for bad in (short, uneven, frame(3, [rows(0)]), frame(4, [rows(1001)])):
        await stream.write(bad.SerializeToString())
    await stream.write(frame(5, [rows(1001), rows(1)]).SerializeToString())
    answers, failures = await results(stream, 6)
    assert set(answers) == {6}, "the neighbour of a call with too many rows is answered"
    assert {failure.code for failure in failures.values()} == {InvalidArgument.code}
    assert failures[1].message == f"tensor must be 2 rows of {FEATURES * 4} bytes, not {FEATURES * 8 - 1} bytes"
    assert failures[2].message == "call_ids, rows and timeouts_ms must be of one length, not 1, 2 and 1"
    assert failures[3].message == "rows must be 1 to 1000, not 0"
    assert failures[4].message == failures[5].message == "rows must be 1 to 1000, not 1001"


async def test_bytes_that_are_no_frame_end_the_stream_after_its_answers(here: Running) -> None:
    """With INVALID_ARGUMENT, not with UNKNOWN and an exception's text."""
    stream = here.caller.stream()
    await stream.write(frame(1, [rows(1)]).SerializeToString())
    await results(stream, 1)
    await stream.write(b"\xff\xff\xff")
    assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "turnout.v1.InferStreamRequest" in await stream.details()


async def test_a_call_without_time_is_refused(here: Running) -> None:
    """It could not start in time."""
    stream = here.caller.stream()
    await stream.write(frame(1, [rows(1)], timeout_ms=0).SerializeToString())
    _, failures = await results(stream, 1)
    assert failures[1].code == DeadlineExceeded.code
    assert here.counted("deadline_exceeded") == 1


async def test_not_a_number_is_an_answer(here: Running) -> None:
    """A missing value that the model cannot take gives NaN, and the router judges it."""
    stream = here.caller.stream()
    await stream.write(frame(1, [np.full((1, FEATURES), np.nan, np.float32)]).SerializeToString())
    answers, _ = await results(stream, 1)
    assert np.isnan(answers[1]).all()


async def test_the_model_says_what_it_is(here: Running) -> None:
    """What the router checks before it sends anything."""
    model = await here.caller(MODEL_SERVICE, "GetModel", model_pb2.GetModelRequest())
    assert (model.family, model.variant, model.version) == ("dispatch", "linear", "turnout-dispatch-linear:v1")
    assert model.schema_digest == TRAINED.manifest.schema_digest
    assert tuple(model.features) == TRAINED.manifest.features
    assert tuple(model.outputs) == ("p",)
    assert model.sha256 == TRAINED.manifest.sha256


async def test_contributions_add_up_to_the_answer(here: Running) -> None:
    """value − base_value is their sum; value is what the stream answers, base_value the background's mean answer."""
    row = rows(1)
    reply = await here.caller(MODEL_SERVICE, "Attribute", model_pb2.AttributeRequest(tensor=row.tobytes()))
    assert len(reply.contributions) == FEATURES
    assert sum(reply.contributions) == pytest.approx(reply.value - reply.base_value, abs=1e-6)
    assert reply.value == pytest.approx(float(TRAINED.answers(row)[0, 0]), abs=1e-6)
    background = np.array(TRAINED.manifest.background, np.float32)
    assert reply.base_value == pytest.approx(float(TRAINED.answers(background).mean()), abs=1e-6)


@pytest.mark.parametrize("size", [0, 3, FEATURES * 8])
async def test_only_one_row_is_attributed(here: Running, size: int) -> None:
    """Anything else is refused with the size that it must have."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await here.caller(MODEL_SERVICE, "Attribute", model_pb2.AttributeRequest(tensor=bytes(size)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"tensor must be one row of {FEATURES * 4} bytes, not {size}"


async def health(caller: Caller, service: str) -> int:
    reply = await caller(HEALTH, "Check", health_pb2.HealthCheckRequest(service=service), 5.0)
    return int(reply.status)


async def test_health_answers_while_the_model_is_busy(tmp_path: Path) -> None:
    """For the server and for each service; a run that takes long does not hold the event loop."""
    async with running(tmp_path, gated=True) as here:
        assert isinstance(here.engine, Gated)
        stream = here.caller.stream()
        await stream.write(frame(1, [rows(1)]).SerializeToString())
        await asyncio.to_thread(here.engine.entered.wait, 20)
        for service in ("", MODEL_SERVICE.full_name, OPEN_INFERENCE.full_name):
            assert await health(here.caller, service) == health_pb2.HealthCheckResponse.SERVING
        here.engine.gate.set()
        answers, _ = await results(stream, 1)
        assert set(answers) == {1}


async def test_a_poisoned_call_fails_alone_and_says_nothing_of_the_exception(tmp_path: Path) -> None:
    """Its neighbours in the same run are answered."""
    async with running(tmp_path, gated=True) as here:
        assert isinstance(here.engine, Gated)
        here.engine.gate.set()
        calls = [rows(1, seed=index) for index in range(5)]
        calls[2] = np.full((1, FEATURES), 666, np.float32)
        stream = here.caller.stream()
        await stream.write(frame(0, calls).SerializeToString())
        answers, failures = await results(stream, 5)
        assert set(answers) == {0, 1, 3, 4}
        assert failures[2].code == INTERNAL
        assert "secret" not in failures[2].message
        assert here.counted("internal") == 1
        assert here.counted("ok") == 4


async def test_what_was_accepted_is_answered_before_a_stop(tmp_path: Path) -> None:
    """The stream then ends with OK, and the caller opens one elsewhere."""
    async with contextlib.AsyncExitStack() as stack:
        here = await stack.enter_async_context(running(tmp_path, gated=True))
        assert isinstance(here.engine, Gated)
        caller = await stack.enter_async_context(calling(here.server.address))
        stream = caller.stream()
        await stream.write(frame(0, [rows(1), rows(40), rows(1)]).SerializeToString())
        await asyncio.to_thread(here.engine.entered.wait, 20)
        here.server.stopping.set()
        here.engine.gate.set()
        answers, failures = await results(stream, 3)
        assert not failures
        assert set(answers) == {0, 1, 2}
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_model_that_hangs_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """After the time to drain the server ends, answer or no answer."""
    async with asyncio.timeout(20):
        async with running(tmp_path, gated=True, drain_seconds=0.1) as here:
            assert isinstance(here.engine, Gated)
            stream = here.caller.stream()
            await stream.write(frame(0, [rows(1)]).SerializeToString())
            await asyncio.to_thread(here.engine.entered.wait, 20)
    assert not here.engine.gate.is_set()
    here.engine.gate.set()


async def test_results_that_are_ready_together_share_a_frame(tmp_path: Path) -> None:
    """Calls that shared a run come back in one message."""
    async with running(tmp_path, gated=True) as here:
        assert isinstance(here.engine, Gated)
        stream = here.caller.stream()
        await stream.write(frame(0, [rows(2), rows(3), rows(1)]).SerializeToString())
        here.engine.gate.set()
        reply = await stream.read()
        assert list(reply.call_ids) == [0, 1, 2]
        assert list(reply.rows) == [2, 3, 1]
        assert len(reply.tensor) == 6 * 4


async def test_a_caller_that_leaves_takes_its_waiting_calls_along(tmp_path: Path) -> None:
    """They are not run for nobody, and others are served."""
    async with running(tmp_path, gated=True) as here:
        assert isinstance(here.engine, Gated)
        gone, stays = here.caller.stream(), here.caller.stream()
        await stays.write(frame(0, [rows(1)]).SerializeToString())
        await asyncio.to_thread(here.engine.entered.wait, 20)
        await gone.write(frame(0, [rows(1)] * 10).SerializeToString())
        while here.registry.get_sample_value("turnout_model_waiting_rows") != 10:
            await asyncio.sleep(0.001)
        gone.cancel()
        while here.registry.get_sample_value("turnout_model_streams") != 1:
            await asyncio.sleep(0.001)
        here.engine.gate.set()
        await stays.write(frame(1, [rows(1)]).SerializeToString())
        answers, _ = await results(stays, 2)
        assert set(answers) == {0, 1}
        assert here.counted("ok") == 2
