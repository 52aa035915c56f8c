"""The Open Inference Protocol for one model: input `features` FP32 [-1, features], output `outputs` FP32 [-1, outputs].

The model goes by the bento's name or by its family's name; a version, where one is given, is the bento's version.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Final

from inference import open_inference_pb2 as oip
from services.model_server.batching import Batcher, Queued
from services.model_server.bundle import Bundle
from services.model_server.engine import FLOAT_BYTES
from services.model_server.model_service import MAX_CALL_ROWS
from services.runtime.call import Call
from services.runtime.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TurnoutError,
)

INPUT: Final = "features"
OUTPUT: Final = "outputs"
_DATATYPE: Final = "FP32"
_DEFAULT_SECONDS: Final = 5.0


class InferenceService:
    """Implements inference.GRPCInferenceService for one bundle."""

    def __init__(
        self, bundle: Bundle, batcher: Batcher, *, clock: Callable[[], float], stopping: asyncio.Event
    ) -> None:
        self._name = bundle.name
        self._version = bundle.tag.partition(":")[2]
        self._names = (bundle.name, bundle.manifest.family)
        self._features = len(bundle.manifest.features)
        self._outputs = len(bundle.manifest.outputs)
        self._batcher = batcher
        self._clock = clock
        self._stopping = stopping

    async def server_live(self, request: oip.ServerLiveRequest, call: Call) -> oip.ServerLiveResponse:  # noqa: ARG002 - every handler has this form
        """Answers that the process is up."""
        return oip.ServerLiveResponse(live=True)

    async def server_ready(self, request: oip.ServerReadyRequest, call: Call) -> oip.ServerReadyResponse:  # noqa: ARG002 - every handler has this form
        """Tells whether new calls are welcome."""
        return oip.ServerReadyResponse(ready=not self._stopping.is_set())

    async def model_ready(self, request: oip.ModelReadyRequest, call: Call) -> oip.ModelReadyResponse:  # noqa: ARG002 - every handler has this form
        """Tells whether the named model answers; a model that is not here is not ready."""
        here = request.name in self._names and request.version in ("", self._version)
        return oip.ModelReadyResponse(ready=here and not self._stopping.is_set())

    async def server_metadata(self, request: oip.ServerMetadataRequest, call: Call) -> oip.ServerMetadataResponse:  # noqa: ARG002 - every handler has this form
        """Names the server; its version is the bento's, because a bento holds the server's code as well."""
        return oip.ServerMetadataResponse(name="turnout-model-server", version=self._version)

    async def model_metadata(self, request: oip.ModelMetadataRequest, call: Call) -> oip.ModelMetadataResponse:  # noqa: ARG002 - every handler has this form
        """Describes the model's tensors.

        Raises:
            NotFound: another model or version is asked for.
        """
        self._check_name(request.name, request.version)
        tensor = oip.ModelMetadataResponse.TensorMetadata
        return oip.ModelMetadataResponse(
            name=self._name,
            versions=[self._version],
            platform="onnxruntime_onnx",
            inputs=[tensor(name=INPUT, datatype=_DATATYPE, shape=[-1, self._features])],
            outputs=[tensor(name=OUTPUT, datatype=_DATATYPE, shape=[-1, self._outputs])],
        )

    async def model_infer(self, request: oip.ModelInferRequest, call: Call) -> oip.ModelInferResponse:
        """Runs the model on 1 to 1 000 rows.

        Raises:
            NotFound: another model or version is asked for.
            InvalidArgument: names the tensor's field and what it must be.
            DeadlineExceeded, ResourceExhausted: the call could not start in time, or too much is waiting.
        """
        self._check_name(request.model_name, request.model_version)
        raw = bool(request.raw_input_contents)
        rows, packed = self._input(request)
        left = call.time_left()
        deadline = self._clock() + (_DEFAULT_SECONDS if left is None else left)
        sink = _OneResult(asyncio.get_running_loop())
        self._batcher.submit(Queued(0, rows, packed, deadline, sink))
        try:
            output = await sink.result
        finally:
            sink.closed = True
        response = oip.ModelInferResponse(model_name=self._name, model_version=self._version, id=request.id)
        tensor = response.outputs.add(name=OUTPUT, datatype=_DATATYPE, shape=[rows, self._outputs])
        if raw:
            response.raw_output_contents.append(output)
        else:
            tensor.contents.fp32_contents.extend(struct.unpack(f"<{rows * self._outputs}f", output))
        return response

    def _check_name(self, name: str, version: str) -> None:
        if name not in self._names:
            raise NotFound("model_name", f"this server has the model {self._name!r}, not {name[:128]!r}")
        if version not in ("", self._version):
            raise NotFound("model_version", f"this server has the version {self._version!r}, not {version[:128]!r}")

    def _input(self, request: oip.ModelInferRequest) -> tuple[int, bytes]:
        """Checks the one input and gives its rows, packed."""
        if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
            raise InvalidArgument("inputs", f"inputs must be the one tensor {INPUT!r}")
        tensor = request.inputs[0]
        if tensor.datatype != _DATATYPE:
            raise InvalidArgument("inputs[0].datatype", f"{INPUT} must be {_DATATYPE}, not {tensor.datatype[:32]!r}")
        shape = list(tensor.shape[:8])
        if len(shape) != 2 or shape[1] != self._features or not 1 <= shape[0] <= MAX_CALL_ROWS:
            raise InvalidArgument(
                "inputs[0].shape", f"{INPUT} must be [1 to {MAX_CALL_ROWS}, {self._features}], not {shape}"
            )
        for wanted in request.outputs:
            if wanted.name != OUTPUT:
                raise InvalidArgument("outputs", f"the only output is {OUTPUT!r}, not {wanted.name[:64]!r}")
        return shape[0], self._data(request, shape[0] * self._features)

    @staticmethod
    def _data(request: oip.ModelInferRequest, elements: int) -> bytes:
        values = request.inputs[0].contents.fp32_contents
        if request.raw_input_contents:
            if len(request.raw_input_contents) != 1 or request.inputs[0].HasField("contents"):
                message = "raw_input_contents must hold one entry, and contents must then be left out"
                raise InvalidArgument("raw_input_contents", message)
            data = request.raw_input_contents[0]
            if len(data) != elements * FLOAT_BYTES:
                message = (
                    f"raw_input_contents[0] must be {elements * FLOAT_BYTES} bytes for this shape, not {len(data)}"
                )
                raise InvalidArgument("raw_input_contents", message)
            return data
        if len(values) != elements:
            message = f"fp32_contents must hold {elements} numbers for this shape, not {len(values)}"
            raise InvalidArgument("inputs[0].contents", message)
        return struct.pack(f"<{elements}f", *values)


class _OneResult:
    """A Sink for one call."""

    __slots__ = ("closed", "result")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.closed = False
        self.result: asyncio.Future[bytes] = loop.create_future()

    def answer(self, call_id: int, rows: int, output: bytes) -> None:  # noqa: ARG002 - a Sink's form
        if not self.result.done():
            self.result.set_result(output)

    def fail(self, call_id: int, code: int, message: str) -> None:  # noqa: ARG002 - a Sink's form
        if not self.result.done():
            self.result.set_exception(_error(code, message))


def _error(code: int, message: str) -> Exception:
    error: TurnoutError
    match code:
        case DeadlineExceeded.code:
            error = DeadlineExceeded("", message)
        case ResourceExhausted.code:
            error = ResourceExhausted("", message)
        case _:
            return ModelFailed(message)
    return error


class ModelFailed(Exception):
    """The model raised on this call; the caller sees INTERNAL."""
