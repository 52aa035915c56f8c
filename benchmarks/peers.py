"""The same ONNX file behind other servers, where `make peers` installed them: for comparison, without a goal."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import psutil

from benchmarks import load
from benchmarks.figures import Figure
from benchmarks.processes import ROOT, Process, started
from bentos.family import load as family
from inference import open_inference_pb2
from services.model_server.bundle import open_bundle
from services.model_server.engine import OnnxEngine

PEERS: Final = ("mlserver", "kserve")
"""Each is a module benchmarks.peer_<name> and an environment .venv-peers/<name>."""
ENVIRONMENTS: Final = ROOT / ".venv-peers"
_READY_SECONDS: Final = 30.0
_TOLERANCE: Final = 1e-5

Infer = Callable[[int], Awaitable[bytes]]
"""Makes call number N; gives the raw bytes of the output."""


@dataclass(frozen=True)
class Tree(Process):
    """A peer's process and all of its children."""

    def cpu_seconds(self) -> float:
        """CPU time of all threads of all of the peer's processes so far."""
        children = [Process(child.pid, "", 0) for child in psutil.Process(self.pid).children(recursive=True)]
        return super().cpu_seconds() + sum(child.cpu_seconds() for child in children)


@dataclass(frozen=True)
class Peer:
    """A running peer and what every call sends to it."""

    process: Tree
    request: open_inference_pb2.ModelInferRequest
    expected: float
    """What our own engine answers to that row."""


def installed(environments: Path = ENVIRONMENTS) -> tuple[str, ...]:
    """Names the peers that can be measured here: `make peers` leaves a mark where an installation is complete."""
    return tuple(name for name in PEERS if (environments / name / ".installed").exists())


def names(environments: Path = ENVIRONMENTS) -> tuple[str, ...]:
    """Names the figures of the installed peers that stand beside ours."""
    return tuple(f"{name}_unary_cpu_ratio" for name in installed(environments))


@contextlib.contextmanager
def running(
    bento: Path,
    log: Path,
    progress: Callable[[str], None],
    say: Callable[[str], None],
    environments: Path = ENVIRONMENTS,
) -> Iterator[dict[str, Peer]]:
    """Runs every installed peer on the model file of `bento`; `say` hears which are missing."""
    here = installed(environments)
    if missing := [name for name in PEERS if name not in here]:
        say(f"  not measured: {', '.join(missing)} (`make peers` would add them)")
    if not here:
        yield {}
        return
    manifest = open_bundle(bento).manifest
    (model,) = bento.rglob(manifest.model_file)
    arguments = [str(model), manifest.input_name, manifest.output_name]
    request, expected = _question(bento)
    with contextlib.ExitStack() as stack:
        peers = {}
        for name in here:
            progress(f"starting {name}")
            python = str(_python(name, environments))
            process = stack.enter_context(started(["-m", f"benchmarks.peer_{name}", *arguments], log, python))
            peers[name] = Peer(Tree(process.pid, process.address, process.ready_seconds), request, expected)
        yield peers


@contextlib.asynccontextmanager
async def called(peers: Mapping[str, Peer]) -> AsyncIterator[dict[str, Infer]]:
    """Gives the way to call each peer, after each has answered as our own engine does.

    Raises:
        RuntimeError: a peer did not answer, or answered something else.
    """
    async with contextlib.AsyncExitStack() as stack:
        calls = {}
        for name, peer in peers.items():
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(peer.process.address))
            calls[name] = _infer(channel, peer.request)
            (answer,) = struct.unpack("<f", await _first_answer(name, calls[name]))
            if abs(answer - peer.expected) > _TOLERANCE * max(1.0, abs(peer.expected)):
                raise RuntimeError(f"{name} answered {answer}, not {peer.expected}: it would not be the same model")
        yield calls


def figures(ratios: Mapping[str, float]) -> list[Figure]:
    """Gives the peers' ratios to the echo, by peer, as figures without a goal."""
    return [Figure(f"{name}_unary_cpu_ratio", ratio, "x", None) for name, ratio in ratios.items()]


def _python(name: str, environments: Path) -> Path:
    return environments / name / "bin" / "python"


def _question(bento: Path) -> tuple[open_inference_pb2.ModelInferRequest, float]:
    bundle = open_bundle(bento)
    schema = family(bundle.manifest.family).schema
    packed, _ = schema.encode(*schema.split(load.ROW))
    (expected,) = struct.unpack("<f", OnnxEngine(bundle.content, bundle.manifest).infer(packed, 1))
    tensor = open_inference_pb2.ModelInferRequest.InferInputTensor(
        name=bundle.manifest.input_name, datatype="FP32", shape=[1, len(schema)]
    )
    request = open_inference_pb2.ModelInferRequest(
        model_name="model", inputs=[tensor], raw_input_contents=[bytes(packed)]
    )
    return request, expected


def _infer(channel: grpc.aio.Channel, question: open_inference_pb2.ModelInferRequest) -> Infer:
    method = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=open_inference_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=open_inference_pb2.ModelInferResponse.FromString,
    )

    async def call(number: int) -> bytes:
        request = open_inference_pb2.ModelInferRequest(id=f"incident-{number}")
        request.MergeFrom(question)
        answer: open_inference_pb2.ModelInferResponse = await method(request, timeout=load.DEADLINE_SECONDS)
        return answer.raw_output_contents[0]

    return call


async def _first_answer(name: str, call: Infer) -> bytes:
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                try:
                    return await call(0)
                except grpc.aio.AioRpcError:
                    # The port is not bound yet, or the model is still being loaded.
                    await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise RuntimeError(f"{name} did not answer within {_READY_SECONDS:g} s") from error
