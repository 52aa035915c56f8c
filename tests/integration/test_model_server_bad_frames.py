"""Whatever a frame says, a model server fails its calls with a sentence, in bounded memory, and goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.model_server.bootstrap import load, model_server
from services.runtime.errors import InvalidArgument
from tests.integration.model_under_test import FEATURES, Caller, calling, frame, linear, results, rows, write_bento
from turnout.v1.model_pb2 import InferStreamRequest

TRAINED = linear()
ROW = b"\0" * FEATURES * 4


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Caller]:
    """Serves the linear model."""
    bundle, engine = load(write_bento(folder, TRAINED))
    clock = asyncio.get_running_loop().time
    async with (
        model_server(
            bundle, engine, "127.0.0.1:0", registry=CollectorRegistry(), clock=clock, drain_seconds=1.0
        ) as server,
        calling(server.address) as caller,
    ):
        yield caller


async def still_answers(stream: Any, call_id: int) -> None:
    """A good call on the same stream is answered."""
    values = rows(3)
    await stream.write(frame(call_id, [values]).SerializeToString())
    answers, _ = await results(stream, 1)
    np.testing.assert_allclose(answers[call_id], TRAINED.answers(values), atol=1e-6)


BAD = {
    "no rows": InferStreamRequest(call_ids=[1], timeouts_ms=[9]),
    "no timeouts": InferStreamRequest(call_ids=[1], rows=[1], tensor=ROW),
    "a row too many": InferStreamRequest(call_ids=[1], rows=[1, 1], timeouts_ms=[9], tensor=ROW * 2),
    "a timeout too many": InferStreamRequest(call_ids=[1], rows=[1], timeouts_ms=[9, 9], tensor=ROW),
    "no tensor": InferStreamRequest(call_ids=[1], rows=[1], timeouts_ms=[9]),
    "a byte too many": InferStreamRequest(call_ids=[1], rows=[1], timeouts_ms=[9], tensor=ROW + b"\0"),
    "half a row": InferStreamRequest(call_ids=[1], rows=[1], timeouts_ms=[9], tensor=ROW[: len(ROW) // 2]),
    "0 rows": InferStreamRequest(call_ids=[1], rows=[0], timeouts_ms=[9]),
    "0 rows of a row": InferStreamRequest(call_ids=[1], rows=[0], timeouts_ms=[9], tensor=ROW),
    "2^31 rows": InferStreamRequest(call_ids=[1], rows=[2**31], timeouts_ms=[9], tensor=ROW),
    "2^32 - 1 rows without data": InferStreamRequest(call_ids=[1], rows=[2**32 - 1], timeouts_ms=[9]),
    "1 001 rows": InferStreamRequest(call_ids=[1], rows=[1001], timeouts_ms=[9], tensor=ROW * 1001),
}


async def test_a_hostile_frame_fails_its_call_alone(tmp_path: Path) -> None:
    """On one stream that goes on; the sentence names the field."""
    async with serving(tmp_path) as caller:
        stream = caller.stream()
        for case, bad in BAD.items():
            await stream.write(bad.SerializeToString())
            answers, failures = await results(stream, 1)
            assert (answers, failures[1].code) == ({}, InvalidArgument.code), case
            assert failures[1].message.startswith(("call_ids, rows and timeouts_ms", "tensor must be", "rows must be"))
        await stream.write(InferStreamRequest().SerializeToString())
        await still_answers(stream, 2)


async def test_a_frame_of_countless_calls_ends_its_stream_only(tmp_path: Path) -> None:
    """A failure is a hundred times larger than a call's number: a small frame must not make a huge answer."""
    async with serving(tmp_path) as caller:
        stream, other = caller.stream(), caller.stream()
        await stream.write(InferStreamRequest(call_ids=[1] * 1_000_000).SerializeToString())
        assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await stream.details() == "call_ids must be at most 10000 in a frame, not 1000000"
        await still_answers(other, 1)


NUMBERS = st.integers(0, 3) | st.sampled_from([1000, 1001, 2**31, 2**32 - 1])
FRAMES = st.builds(
    InferStreamRequest,
    call_ids=st.lists(st.integers(0, 2**64 - 1), max_size=4),
    rows=st.lists(NUMBERS, max_size=4),
    timeouts_ms=st.lists(NUMBERS, max_size=4),
    tensor=st.integers(0, 8).map(lambda count: ROW * count) | st.binary(max_size=100),
)


def test_every_call_of_any_frame_has_exactly_one_result(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An answer or a failure, in whatever frame it came."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        caller = runner.run(stack.enter_async_context(serving(tmp_path_factory.mktemp("bento"))))
        stream = caller.stream()

        async def told(request: InferStreamRequest) -> int:
            await stream.write(request.SerializeToString())
            count = 0
            async with asyncio.timeout(10):
                while count < len(request.call_ids):
                    reply = await stream.read()
                    count += len(reply.call_ids) + len(reply.failures)
                    assert len(reply.tensor) == 4 * sum(reply.rows)
            return count

        @settings(max_examples=150, database=None)
        @given(request=FRAMES)
        def law(request: InferStreamRequest) -> None:
            assert runner.run(told(request)) == len(request.call_ids)

        try:
            law()
            runner.run(still_answers(stream, 1))
        finally:
            stream.cancel()
            runner.run(stack.aclose())
