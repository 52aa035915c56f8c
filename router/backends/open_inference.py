"""A link to any server that speaks the Open Inference Protocol: Triton, KServe, MLServer and others.

Each call is one unary ModelInfer with the family's dense rows, float32 [rows, features], in the schema's order; the
answer is one number a row. A server that answered nothing for a second is asked whether the model is ready: a link to
one that is not, or that says nothing, is closed, so that calls go elsewhere at once. What becomes of a call is told to
the guard as for our own model servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog

from inference import open_inference_pb2 as oip
from router.backends.guard import DEFAULT_GUARD, GuardSettings
from router.backends.link import Link
from router.backends.results import Expectation, Failure, Served
from turnout.v1 import model_pb2

_log = structlog.get_logger(__name__)
_SERVICE: Final = "/inference.GRPCInferenceService"
READY_SECONDS: Final = 1.0
"""After how long without an answer the server is asked whether the model is ready, and how long that may take."""
CHANNEL_OPTIONS: Final = (
    # No keepalive pings: servers that do not expect them close the connection for it. Asking for readiness serves.
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_channelz", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_FAILURES: Final = {
    grpc.StatusCode.UNAVAILABLE: Failure.CONNECTION,
    grpc.StatusCode.CANCELLED: Failure.CONNECTION,
    grpc.StatusCode.DEADLINE_EXCEEDED: Failure.TIMEOUT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Failure.OVERLOADED,
}
_NUMBERS: Final = {
    "FP32": ("f", "fp32_contents"),
    "FP64": ("d", "fp64_contents"),
    "INT32": ("i", "int_contents"),
    "INT64": ("q", "int64_contents"),
}
"""By datatype: letter of `struct` and field of the typed contents."""
_DEFAULT_INPUT: Final = "features"


@dataclass(frozen=True, slots=True)
class Remote:
    """What is asked of the server."""

    model: str
    output: str = ""
    """Name of the output tensor; empty takes the only one."""


class OpenInferenceLink(Link):
    """The link to one address. Interface and guard are those of `Link`; the wire is another."""

    channel_options = CHANNEL_OPTIONS

    def __init__(
        self,
        address: str,
        expected: Expectation,
        *,
        loop: asyncio.AbstractEventLoop,
        jitter: Callable[[], float],
        remote: Remote,
        guard: GuardSettings = DEFAULT_GUARD,
    ) -> None:
        super().__init__(address, expected, loop=loop, jitter=jitter, guard=guard)
        self._remote = remote
        self._features = expected.row_bytes // 4
        self._input = _DEFAULT_INPUT
        self._infer: Callable[..., Any] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._answers = 0
        """Since the server was last asked."""
        self._doubt = asyncio.Event()
        """Set when a call met a broken connection: no need to wait for the next second to ask."""

    def _send(self, call_id: int, packed: bytes, rows: int, seconds: float) -> None:
        task = self._loop.create_task(self._ask(call_id, packed, rows, seconds))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _ask(self, call_id: int, packed: bytes, rows: int, seconds: float) -> None:
        request = oip.ModelInferRequest(
            model_name=self._remote.model,
            inputs=[
                oip.ModelInferRequest.InferInputTensor(name=self._input, datatype="FP32", shape=[rows, self._features])
            ],
            raw_input_contents=[packed],
        )
        if self._remote.output:
            request.outputs.add(name=self._remote.output)
        try:
            if self._infer is None:
                self._failed(call_id, Failure.CONNECTION, self._loop.time())
                return
            reply = await self._infer(request, timeout=seconds)
            self._answers += 1
            output = numbers(reply, rows, self._remote.output)
            # None is told to the guard as an answer of the wrong shape.
            self._answered(call_id, output if output is not None else b"", self._loop.time())
        except grpc.aio.AioRpcError as error:
            failure = _FAILURES.get(error.code(), Failure.ERROR)
            if failure is Failure.CONNECTION:
                self._doubt.set()
            self._failed(call_id, failure, self._loop.time())
        except Exception as error:  # noqa: BLE001 - whatever a foreign server makes happen costs one call only
            _log.error("foreign answer failed", address=self.address, exc_info=error)
            self._failed(call_id, Failure.ERROR, self._loop.time())

    async def attribute(self, packed: bytes, seconds: float) -> model_pb2.AttributeResponse | Failure:  # noqa: ARG002 - the interface's
        """Gives no Shapley values: the protocol has no call for them."""
        return Failure.UNAVAILABLE

    async def _check(self, channel: grpc.aio.Channel) -> Served | None:
        if not await self._ready(channel):
            return None
        version = ""
        try:
            metadata: oip.ModelMetadataResponse = await _method(channel, "ModelMetadata")(
                oip.ModelMetadataRequest(name=self._remote.model), timeout=READY_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            # A server need not describe its models.
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
        else:
            wrong = misfit(metadata, self._features, self._remote.output)
            if wrong:
                _log.error("backend serves something else", address=self.address, reason=wrong)
                return None
            if metadata.inputs:
                self._input = metadata.inputs[0].name
            version = metadata.versions[-1] if metadata.versions else ""
        named = f"{self._remote.model}:{version}" if version else self._remote.model
        return Served(self._remote.model, named, outputs=1, bounds=None)

    async def _ready(self, channel: grpc.aio.Channel) -> bool:
        reply: oip.ModelReadyResponse = await _method(channel, "ModelReady")(
            oip.ModelReadyRequest(name=self._remote.model), timeout=READY_SECONDS
        )
        return reply.ready

    async def _serve(self, channel: grpc.aio.Channel, served: Served) -> None:
        """Keeps the link open for as long as the server says that the model is ready."""
        self._infer = _method(channel, "ModelInfer")
        self._open(served)
        try:
            while True:
                self._doubt.clear()
                self._answers = 0
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(READY_SECONDS):
                        await self._doubt.wait()
                if (self._doubt.is_set() or not self._answers) and not await self._ready(channel):
                    return
        finally:
            self._close()
            self._infer = None
            for task in list(self._calls):
                task.cancel()


def misfit(metadata: oip.ModelMetadataResponse, features: int, output: str) -> str:
    """Tells why a model as its server describes it cannot answer; empty when it can, or when it is not described."""
    if metadata.inputs:
        if len(metadata.inputs) > 1:
            return f"the model takes {len(metadata.inputs)} inputs, not one tensor of {features} features"
        (tensor,) = metadata.inputs
        if tensor.datatype != "FP32":
            return f"input {tensor.name!r} is {tensor.datatype[:16]!r}, not FP32"
        if tensor.shape and (len(tensor.shape) != 2 or tensor.shape[1] not in (-1, features)):
            return f"input {tensor.name!r} has the shape {list(tensor.shape)[:8]}, not [rows, {features}]"
    names = [tensor.name for tensor in metadata.outputs]
    if output and names and output not in names:
        return f"the model has no output {output!r}; it has: {', '.join(names)[:200]}"
    return ""


def numbers(reply: oip.ModelInferResponse, rows: int, output: str) -> bytes | None:
    """Gives an answer's numbers as float32, one a row; None when it holds anything else."""
    found = [index for index, tensor in enumerate(reply.outputs) if not output or tensor.name == output]
    if len(found) != 1:
        return None
    tensor = reply.outputs[found[0]]
    if tensor.datatype not in _NUMBERS or math.prod(tensor.shape) != rows or list(tensor.shape)[:1] != [rows]:
        return None
    letter, contents = _NUMBERS[tensor.datatype]
    if not reply.raw_output_contents:
        return _float32(getattr(tensor.contents, contents), rows)
    raw = reply.raw_output_contents[found[0]] if found[0] < len(reply.raw_output_contents) else b""
    if len(raw) != rows * struct.calcsize(f"<{letter}"):
        return None
    return bytes(raw) if letter == "f" else _float32(struct.unpack(f"<{rows}{letter}", raw), rows)


def _float32(values: Sequence[float], rows: int) -> bytes | None:
    try:
        return struct.pack(f"<{rows}f", *values)
    except (struct.error, OverflowError):
        # Not one a row, or a number that float32 does not reach.
        return None


def _method(channel: grpc.aio.Channel, name: str) -> Any:
    return channel.unary_unary(
        f"{_SERVICE}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=getattr(oip, f"{name}Response").FromString,
    )
