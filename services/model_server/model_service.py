"""turnout.v1.ModelService: inference over one multiplexed stream, the model's identity, Shapley values."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

from services.model_server.attribution import Attributor
from services.model_server.batching import Batcher, Queued
from services.model_server.bundle import Bundle
from services.model_server.engine import FLOAT_BYTES
from services.model_server.streaming import Results
from services.runtime.call import Call
from services.runtime.errors import InvalidArgument
from turnout.v1 import model_pb2

MAX_CALL_ROWS: Final = 1000
MAX_FRAME_CALLS: Final = 10_000


class StreamGauge(Protocol):
    """Counts open streams."""

    def stream_opened(self) -> None:
        """A stream began."""

    def stream_closed(self) -> None:
        """A stream ended."""


class ModelService:
    """Implements turnout.v1.ModelService for one bundle."""

    def __init__(
        self,
        bundle: Bundle,
        batcher: Batcher,
        attributor: Attributor,
        *,
        clock: Callable[[], float],
        stopping: asyncio.Event,
        gauge: StreamGauge,
    ) -> None:
        manifest = bundle.manifest
        self._model = model_pb2.GetModelResponse(
            family=manifest.family,
            variant=manifest.variant,
            version=bundle.tag,
            schema_digest=manifest.schema_digest,
            features=manifest.features,
            outputs=manifest.outputs,
            sha256=manifest.sha256,
            lower_bounds=[-math.inf if low is None else low for low, _ in manifest.bounds],
            upper_bounds=[math.inf if high is None else high for _, high in manifest.bounds],
        )
        self._features = len(manifest.features)
        self._row_bytes = self._features * FLOAT_BYTES
        self._batcher = batcher
        self._attributor = attributor
        self._clock = clock
        self._stopping = stopping
        self._gauge = gauge

    async def get_model(self, request: model_pb2.GetModelRequest, call: Call) -> model_pb2.GetModelResponse:  # noqa: ARG002 - every handler has this form
        """Says what is served."""
        return self._model

    async def attribute(self, request: model_pb2.AttributeRequest, call: Call) -> model_pb2.AttributeResponse:
        """Attributes one row's answer to its features.

        Raises:
            InvalidArgument: the tensor is not one row.
            ResourceExhausted: too many attributions wait.
            DeadlineExceeded: the caller's time is over.
            FailedPrecondition: the bento has no background rows.
        """
        if len(request.tensor) != self._row_bytes:
            raise InvalidArgument(
                "tensor", f"tensor must be one row of {self._row_bytes} bytes, not {len(request.tensor)}"
            )
        left = call.time_left()
        deadline = None if left is None else self._clock() + left
        value, base, contributions = await self._attributor.attribute(request.tensor, deadline)
        return model_pb2.AttributeResponse(value=value, base_value=base, contributions=contributions)

    async def infer_stream(
        self,
        requests: AsyncIterator[model_pb2.InferStreamRequest],
        call: Call,  # noqa: ARG002 - every handler has this form
    ) -> AsyncIterator[model_pb2.InferStreamResponse]:
        """Answers frames of calls until the caller ends the stream or the server stops.

        Everything that was accepted is answered before the stream ends. A bad call gets a failure of its own.
        """
        loop = asyncio.get_running_loop()
        results = Results(loop)
        reader = loop.create_task(self._read(requests, results))
        stop = loop.create_task(self._stopping.wait())
        stop.add_done_callback(lambda _: reader.cancel())
        self._gauge.stream_opened()
        try:
            while (frame := await results.next_frame()) is not None:
                yield frame
            if reader.done() and not reader.cancelled():
                # A frame that could not be read ends the stream with its error, after the answers.
                reader.result()
        finally:
            results.closed = True
            reader.cancel()
            stop.cancel()
            self._gauge.stream_closed()

    async def _read(self, requests: AsyncIterator[model_pb2.InferStreamRequest], results: Results) -> None:
        try:
            async for frame in requests:
                self._accept(frame, results)
                await results.room()
        finally:
            results.end_input()

    def _accept(self, frame: model_pb2.InferStreamRequest, results: Results) -> None:
        ids, rows, timeouts, tensor = frame.call_ids, frame.rows, frame.timeouts_ms, frame.tensor
        if len(ids) > MAX_FRAME_CALLS:
            # A call number is one byte, its failure a hundred: the stream ends instead.
            raise InvalidArgument("call_ids", f"call_ids must be at most {MAX_FRAME_CALLS} in a frame, not {len(ids)}")
        results.expect(len(ids))
        problem = self._problem(len(ids), len(rows), len(timeouts), sum(rows), len(tensor))
        if problem:
            for call_id in ids:
                results.fail(call_id, InvalidArgument.code, problem)
            return
        now = self._clock()
        submit = self._batcher.submit
        if len(ids) == 1 and 0 < rows[0] <= MAX_CALL_ROWS:
            submit(Queued(ids[0], rows[0], tensor, now + timeouts[0] / 1000, results))
            return
        view = memoryview(tensor)
        begin = 0
        for call_id, count, timeout_ms in zip(ids, rows, timeouts, strict=True):
            end = begin + count * self._row_bytes
            if 0 < count <= MAX_CALL_ROWS:
                submit(Queued(call_id, count, view[begin:end], now + timeout_ms / 1000, results))
            else:
                results.fail(call_id, InvalidArgument.code, f"rows must be 1 to {MAX_CALL_ROWS}, not {count}")
            begin = end

    def _problem(self, ids: int, rows: int, timeouts: int, total_rows: int, size: int) -> str:
        """Says what is wrong with a whole frame; empty when nothing is."""
        if not ids == rows == timeouts:
            return f"call_ids, rows and timeouts_ms must be of one length, not {ids}, {rows} and {timeouts}"
        if total_rows * self._row_bytes != size:
            return f"tensor must be {total_rows} rows of {self._row_bytes} bytes, not {size} bytes"
        return ""
