"""A small packaged model, and a caller of the model server: what the model server's and packaging's tests stand on."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from onnx import TensorProto, helper, numpy_helper

from bentos.manifest import MANIFEST, Manifest
from inference import open_inference_pb2
from turnout.v1 import model_pb2

FEATURES = 6
MODEL_SERVICE = model_pb2.DESCRIPTOR.services_by_name["ModelService"]
OPEN_INFERENCE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Linear:
    """A trained variant whose answer is sigmoid(row · weights); it has the form that packaging asks for."""

    onnx: bytes
    manifest: Manifest
    weights: Matrix

    def answers(self, rows: Matrix) -> Matrix:
        """What the model must answer, float32 [rows, 1]."""
        return np.asarray(1 / (1 + np.exp(-(rows @ self.weights))), dtype=np.float32)


def linear(variant: str = "linear", *, family: str = "dispatch", seed: int = 1) -> Linear:
    """Makes a variant with random weights."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=(FEATURES, 1)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Sigmoid", ["z"], ["p"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, FEATURES])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx = model.SerializeToString()
    manifest = Manifest(
        family=family,
        variant=variant,
        features=tuple(f"f{index}" for index in range(FEATURES)),
        outputs=("p",),
        schema_digest=0xFEED_0000_0000_0001,
        input_name="x",
        output_name="p",
        model_file="model.onnx",
        sha256=hashlib.sha256(onnx).hexdigest(),
        background=tuple(tuple(float(v) for v in row) for row in random.normal(size=(8, FEATURES))),
        metrics={"auc": 0.5},
        provenance={"created_at": "2026-01-01T00:00:00+00:00"},
    )
    return Linear(onnx, manifest, weights)


def write_bento(folder: Path, trained: Linear, *, version: str = "v1") -> Path:
    """Writes the few files of an exported bento that a model server reads."""
    name = f"turnout-{trained.manifest.family}-{trained.manifest.variant}"
    model = folder / "models" / name / version
    model.mkdir(parents=True)
    (folder / "bento.yaml").write_text(f"name: {name}\nversion: {version}\n")
    (model / MANIFEST).write_text(trained.manifest.dumps())
    (model / trained.manifest.model_file).write_bytes(trained.onnx)
    return folder


def rows(count: int, seed: int = 2) -> Matrix:
    """Random rows, float32 [count, FEATURES]."""
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


def frame(first_id: int, calls: Sequence[Matrix], timeout_ms: int = 30_000) -> model_pb2.InferStreamRequest:
    """One frame with these calls, numbered from `first_id`."""
    return model_pb2.InferStreamRequest(
        call_ids=range(first_id, first_id + len(calls)),
        rows=[len(call) for call in calls],
        timeouts_ms=[timeout_ms] * len(calls),
        tensor=b"".join(call.tobytes() for call in calls),
    )


class Caller:
    """Calls a server by the descriptors alone."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def __call__(self, service: Any, method: str, request: Message, timeout: float = 20.0) -> Any:  # noqa: ASYNC109 - grpc's own deadline
        """Makes a unary call."""
        output = service.methods_by_name[method].output_type
        call: Any = self._channel.unary_unary(
            f"/{service.full_name}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(output).FromString,
        )
        return await call(request, timeout=timeout)

    def stream(self) -> Any:
        """Opens an inference stream; requests are written as bytes."""
        call: Any = self._channel.stream_stream(
            f"/{MODEL_SERVICE.full_name}/InferStream",
            response_deserializer=model_pb2.InferStreamResponse.FromString,
        )
        return call(timeout=60)


@contextlib.asynccontextmanager
async def calling(address: str) -> AsyncIterator[Caller]:
    """Opens a channel of its own to a server."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Caller(channel)


async def results(stream: Any, calls: int) -> tuple[dict[int, Matrix], dict[int, model_pb2.InferFailure]]:
    """Reads frames until so many calls are answered or failed: answers and failures by call."""
    answers: dict[int, Matrix] = {}
    failures: dict[int, model_pb2.InferFailure] = {}
    while len(answers) + len(failures) < calls:
        reply = await stream.read()
        assert reply is not grpc.aio.EOF, f"the stream ended early: {await stream.code()} {await stream.details()}"
        values = np.frombuffer(reply.tensor, "<f4")
        begin = 0
        for call_id, count in zip(reply.call_ids, reply.rows, strict=True):
            answers[call_id] = values[begin : begin + count].reshape(count, 1)
            begin += count
        assert begin == len(values)
        failures.update({failure.call_id: failure for failure in reply.failures})
    return answers, failures
