"""An arm may be any server that speaks the Open Inference Protocol; its failures are covered like any other's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inference import open_inference_pb2 as oip
from router.backends.open_inference import misfit, numbers
from services.runtime.call import Call
from services.runtime.errors import FailedPrecondition, NotFound, Unimplemented
from services.runtime.grpc_binding import bind
from services.runtime.serving import Server, serving
from tests.integration.platform_under_test import SCHEMA, Platform, connected, experiment, platform
from turnout.v1 import prediction_pb2

OIP = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
TENSOR = oip.ModelMetadataResponse.TensorMetadata
ROOT = Path(__file__).parents[2]
PEER = ROOT / ".venv-peers" / "mlserver"
Behaviour = Callable[[oip.ModelInferRequest], oip.ModelInferResponse]


def rows_of(request: oip.ModelInferRequest) -> list[tuple[float, ...]]:
    """The rows of a call."""
    (raw,) = request.raw_input_contents
    return [SCHEMA.decode(raw[at : at + SCHEMA.row_bytes]) for at in range(0, len(raw), SCHEMA.row_bytes)]


def first_feature(request: oip.ModelInferRequest) -> oip.ModelInferResponse:
    """A well-behaved server: severity / 10, as FP32 in raw contents."""
    values = [row[0] / 10 for row in rows_of(request)]
    return answer("FP32", [len(values)], raw=struct.pack(f"<{len(values)}f", *values))


def answer(datatype: str, shape: list[int], *, raw: bytes | None = None, **contents: Any) -> oip.ModelInferResponse:
    """An answer with one output."""
    reply = oip.ModelInferResponse(model_name="m", model_version="7")
    tensor = reply.outputs.add(name="p", datatype=datatype, shape=shape)
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    if raw is not None:
        reply.raw_output_contents.append(raw)
    return reply


@dataclass
class Double:
    """A server whose answers a test chooses."""

    behaviour: Behaviour = first_feature
    ready: bool = True
    metadata: oip.ModelMetadataResponse | None = field(
        default_factory=lambda: oip.ModelMetadataResponse(
            name="m",
            versions=["7"],
            inputs=[TENSOR(name="x", datatype="FP32", shape=[-1, len(SCHEMA)])],
            outputs=[TENSOR(name="p", datatype="FP32", shape=[-1])],
        )
    )
    names: set[str] = field(default_factory=set)
    silent: bool = False

    async def server_live(self, _: oip.ServerLiveRequest, __: Call) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def server_ready(self, _: oip.ServerReadyRequest, __: Call) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=True)

    async def server_metadata(self, _: oip.ServerMetadataRequest, __: Call) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(name="double")

    async def model_ready(self, request: oip.ModelReadyRequest, _: Call) -> oip.ModelReadyResponse:
        if request.name != "m":
            raise NotFound("name", "there is no such model")
        return oip.ModelReadyResponse(ready=self.ready)

    async def model_metadata(self, _: oip.ModelMetadataRequest, __: Call) -> oip.ModelMetadataResponse:
        if self.metadata is None:
            raise Unimplemented("", "not described")
        return self.metadata

    async def model_infer(self, request: oip.ModelInferRequest, _: Call) -> oip.ModelInferResponse:
        if self.silent:
            await asyncio.sleep(60)
        self.names |= {tensor.name for tensor in request.inputs}
        return self.behaviour(request)


@contextlib.asynccontextmanager
async def double_serving(double: Double, address: str) -> AsyncIterator[Server]:
    async with serving(lambda _: [bind(OIP, double)], address, drain_seconds=0) as server:
        yield server


@contextlib.asynccontextmanager
async def behind(double: Double, tmp_path: Path, **variant: object) -> AsyncIterator[Platform]:
    """A router whose only model is a foreign server."""
    address = f"unix:{tmp_path}/o.sock"
    fake = {"addresses": [address], "protocol": "open_inference", "model": "m"} | variant
    families = {"dispatch": {"variants": {"fake": fake}}}
    async with double_serving(double, address), platform(with_model=False, families=families) as p:
        yield p


async def test_foreign_server_answers_as_an_arm(tmp_path: Path) -> None:
    """One row, many rows at once, and the model's version; the input goes by the name that the server gives it."""
    double = Double()
    async with behind(double, tmp_path) as p:
        await connected(p.router)
        one = await p.call.predict(unit_id="u")
        assert one.value == pytest.approx(0.4)
        assert (one.served_variant, one.model_version) == ("fake", "m:7")
        many = await asyncio.gather(*(p.call.predict(unit_id=f"u{i}") for i in range(10)))
        assert {answer.served_variant for answer in many} == {"fake"}
    assert double.names == {"x"}


def double_of(request: oip.ModelInferRequest, datatype: str, letter: str) -> oip.ModelInferResponse:
    values = [int(row[0] / 4) if letter in "iq" else row[0] / 4 for row in rows_of(request)]
    return answer(datatype, [len(values), 1], raw=struct.pack(f"<{len(values)}{letter}", *values))


@pytest.mark.parametrize(("datatype", "letter"), [("FP64", "d"), ("INT32", "i"), ("INT64", "q")])
async def test_other_numbers_are_taken(tmp_path: Path, datatype: str, letter: str) -> None:
    """Wider floats and whole numbers, of shape [rows, 1], are as good."""
    async with behind(Double(lambda request: double_of(request, datatype, letter)), tmp_path) as p:
        await connected(p.router)
        assert (await p.call.predict()).value == 1.0


def fails(_: oip.ModelInferRequest) -> oip.ModelInferResponse:
    raise FailedPrecondition("", "no")


WRONG: dict[str, Behaviour] = {
    "too few": lambda _: answer("FP32", [1], raw=b"\0\0"),
    "too many": lambda _: answer("FP32", [1], raw=bytes(8)),
    "two columns": lambda _: answer("FP32", [1, 2], raw=bytes(8)),
    "no shape": lambda _: answer("FP32", [], raw=bytes(4)),
    "texts": lambda _: answer("BYTES", [1], bytes_contents=[b"0.4"]),
    "nothing": lambda _: oip.ModelInferResponse(),
    "two outputs": lambda _: oip.ModelInferResponse(outputs=[{"name": "p"}, {"name": "q"}]),  # type: ignore[list-item]
    "no contents": lambda _: answer("FP32", [1]),
    "not a number": lambda _: answer("FP32", [1], fp32_contents=[float("nan")]),
    "out of range": lambda _: answer("FP32", [1], fp32_contents=[1.5]),
    "beyond float32": lambda _: answer("FP64", [1], fp64_contents=[1e300]),
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_answers_fall_back_to_the_rules(tmp_path: Path, name: str) -> None:
    """Whatever shape, type or number comes back, the caller has an answer and its reason."""
    async with behind(Double(WRONG[name]), tmp_path) as p:
        await connected(p.router)
        said = await p.call.predict()
        assert (said.served_variant, said.fallback) == ("rules", prediction_pb2.FALLBACK_REASON_INVALID)


async def test_errors_and_silence_fall_back_to_the_rules(tmp_path: Path) -> None:
    """A server that fails, or does not answer in its share of the deadline, costs nobody an answer."""
    double = Double(fails)
    async with behind(double, tmp_path) as p:
        await connected(p.router)
        assert (await p.call.predict()).fallback == prediction_pb2.FALLBACK_REASON_ERROR
        double.silent = True
        assert (await p.call.predict(timeout=0.3)).fallback == prediction_pb2.FALLBACK_REASON_TIMEOUT


async def until_away(p: Platform) -> None:
    async with asyncio.timeout(10):
        while p.router.decider.table.routes["dispatch"].pools["fake"].pick() is not None:
            await asyncio.sleep(0.01)


async def test_model_that_is_not_ready_any_more_is_left_and_found_again(tmp_path: Path) -> None:
    """Readiness is asked for while nothing else is heard; a server that is gone is noticed, and met when it returns."""
    double = Double()
    address = f"unix:{tmp_path}/o.sock"
    fake = {"addresses": [address], "protocol": "open_inference", "model": "m"}
    async with platform(with_model=False, families={"dispatch": {"variants": {"fake": fake}}}) as p:
        async with double_serving(double, address):
            await connected(p.router)
            double.ready = False
            await until_away(p)
            assert (await p.call.predict()).fallback == prediction_pb2.FALLBACK_REASON_UNAVAILABLE
            double.ready = True
            await connected(p.router)
        await until_away(p)
        async with double_serving(double, address):
            await connected(p.router)
            assert (await p.call.predict()).served_variant == "fake"


MISFITS: dict[str, tuple[dict[str, Any], str, str]] = {
    "two inputs": ({"inputs": [TENSOR(name="a"), TENSOR(name="b")]}, "", "2 inputs"),
    "texts": ({"inputs": [TENSOR(name="a", datatype="BYTES")]}, "", "not FP32"),
    "width": ({"inputs": [TENSOR(name="a", datatype="FP32", shape=[-1, 3])]}, "", "not [rows, 5]"),
    "no such output": ({"outputs": [TENSOR(name="p")]}, "q", "no output 'q'"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_model_that_cannot_fit_is_told_and_not_asked(name: str) -> None:
    """A wrong address never answers for a family: the metadata are compared with the schema first."""
    fields, output, told = MISFITS[name]
    assert told in misfit(oip.ModelMetadataResponse(**fields), 5, output)


async def test_misfit_never_opens_a_link_and_no_description_does(tmp_path: Path) -> None:
    """What the server says of its model decides; a server that says nothing is taken at its answers."""
    double = Double(metadata=oip.ModelMetadataResponse(inputs=[TENSOR(name="x", datatype="INT64")]))
    async with behind(double, tmp_path) as p:
        assert (await p.call.predict()).fallback == prediction_pb2.FALLBACK_REASON_UNAVAILABLE
        double.metadata = None
        await connected(p.router)
        assert (await p.call.predict()).model_version == "m"


def test_output_is_chosen_by_name() -> None:
    """Where a model gives several tensors the configuration names the one."""
    reply = answer("FP32", [2], raw=struct.pack("<2f", 1, 2))
    reply.outputs.add(name="q", datatype="INT64", shape=[2])
    reply.raw_output_contents.append(struct.pack("<2q", 3, 4))
    assert numbers(reply, 2, "q") == struct.pack("<2f", 3, 4)
    assert numbers(reply, 2, "") is None
    assert numbers(reply, 3, "q") is None


async def test_ours_and_a_foreign_arm_stand_beside_each_other(tmp_path: Path) -> None:
    """Units share out between the two, and the configuration moves an arm from one protocol to the other."""
    address = f"unix:{tmp_path}/o.sock"
    async with double_serving(Double(), address), platform() as p:
        families: dict[str, Any] = {"dispatch": {"variants": dict(p.config["families"]["dispatch"]["variants"])}}
        families["dispatch"]["variants"]["ext"] = {"addresses": [address], "protocol": "open_inference", "model": "m"}
        arms = {"ours": {"variant": "fake", "weight": 50}, "theirs": {"variant": "ext", "weight": 50}}
        p.write(families=families, experiments={"dispatch": {**experiment(), "champion": "ours", "arms": arms}})
        async with asyncio.timeout(10):
            while "ext" not in p.router.decider.table.routes["dispatch"].pools:
                await asyncio.sleep(0.01)
        await connected(p.router, "ext")
        said = [await p.call.predict(unit_id=str(i)) for i in range(60)]
        assert {(one.assignment.arm, one.served_variant) for one in said} == {("ours", "fake"), ("theirs", "ext")}


RUNTIME = """
import asyncio, sys
import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

class Tenth(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("p", (rows[:, :1] / 10).astype(np.float32))]
        )

async def main() -> None:
    settings = Settings(host="127.0.0.1", http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), parallel_workers=0,
                        debug=False, metrics_endpoint=None, load_models_at_startup=False)
    model = ModelSettings(name="m", implementation="tenth.Tenth")
    await MLServer(settings).start([model])

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.skipif(not (PEER / ".installed").exists(), reason="MLServer is not installed here: `make peers` does it")
async def test_real_mlserver_is_an_arm_and_its_death_is_covered(tmp_path: Path) -> None:
    """A process of MLServer from PyPI answers beside ours; when it is killed the rules do, and no call fails."""
    (tmp_path / "tenth.py").write_text(RUNTIME)
    http, port = free_ports(2)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    command = [str(PEER / "bin" / "python"), "tenth.py", str(http), str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)  # noqa: ASYNC220 - a test's own process
    try:
        fake = {"addresses": [f"127.0.0.1:{port}"], "protocol": "open_inference", "model": "m"}
        async with platform(with_model=False, families={"dispatch": {"variants": {"fake": fake}}}) as p:
            async with asyncio.timeout(60):
                while p.router.decider.table.routes["dispatch"].pools["fake"].pick() is None:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    await asyncio.sleep(0.05)
            said = [await p.call.predict(unit_id=str(i)) for i in range(50)]
            assert {(round(one.value, 6), one.served_variant) for one in said} == {(0.4, "fake")}
            process.kill()
            after = [await p.call.predict(unit_id=str(i)) for i in range(50)]
            assert {one.served_variant for one in after} == {"rules"}
            await until_away(p)
    finally:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    import socket

    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
