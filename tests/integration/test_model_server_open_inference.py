"""The Open Inference Protocol as the model server speaks it, and with a client that is not ours."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from inference import open_inference_pb2 as oip
from services.model_server.bootstrap import load, model_server
from tests.integration.model_under_test import FEATURES, OPEN_INFERENCE, Caller, calling, linear, rows, write_bento

TRAINED = linear()
NAME = "turnout-dispatch-linear"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[str, Caller]]:
    bundle, engine = load(write_bento(tmp_path, TRAINED))
    clock = asyncio.get_running_loop().time
    async with (
        model_server(bundle, engine, "127.0.0.1:0", registry=CollectorRegistry(), clock=clock) as server,
        calling(server.address) as caller,
    ):
        yield server.address, caller


def request(values: np.typing.NDArray[np.float32], *, raw: bool, name: str = NAME) -> oip.ModelInferRequest:
    made = oip.ModelInferRequest(model_name=name, id="call-7")
    tensor = made.inputs.add(name="features", datatype="FP32", shape=values.shape)
    if raw:
        made.raw_input_contents.append(values.tobytes())
    else:
        tensor.contents.fp32_contents.extend(values.ravel().tolist())
    return made


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("name", [NAME, "dispatch"])
async def test_rows_are_answered_in_the_form_in_which_they_came(
    served: tuple[str, Caller], *, raw: bool, name: str
) -> None:
    """Raw for raw, contents for contents; the call's id comes back."""
    values = rows(17)
    reply = await served[1](OPEN_INFERENCE, "ModelInfer", request(values, raw=raw, name=name))
    assert (reply.id, reply.model_name, reply.model_version) == ("call-7", NAME, "v1")
    (tensor,) = reply.outputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("outputs", "FP32", [17, 1])
    if raw:
        assert not tensor.HasField("contents")
        answer = np.frombuffer(reply.raw_output_contents[0], "<f4")
    else:
        assert not reply.raw_output_contents
        answer = np.array(tensor.contents.fp32_contents)
    np.testing.assert_allclose(answer.reshape(17, 1), TRAINED.answers(values), atol=1e-6)


def wrong_requests() -> dict[str, tuple[oip.ModelInferRequest, grpc.StatusCode, str]]:
    """Requests that must be refused, with the code and a part of the sentence."""
    bad = grpc.StatusCode.INVALID_ARGUMENT

    def changed(**changes: Any) -> oip.ModelInferRequest:
        made = request(rows(2), raw=True)
        for name, value in changes.items():
            if name == "shape":
                made.inputs[0].shape[:] = value
            else:
                setattr(made.inputs[0], name, value)
        return made

    two_inputs = request(rows(2), raw=True)
    two_inputs.inputs.add(name="more")
    both = request(rows(2), raw=False)
    both.raw_input_contents.append(rows(2).tobytes())
    short_raw = request(rows(2), raw=True)
    short_raw.raw_input_contents[0] = short_raw.raw_input_contents[0][:-4]
    short = request(rows(2), raw=False)
    short.inputs[0].contents.fp32_contents.pop()
    other_output = request(rows(2), raw=True)
    other_output.outputs.add(name="logits")
    version = request(rows(2), raw=True)
    version.model_version = "v0"
    missing = grpc.StatusCode.NOT_FOUND
    return {
        "another model": (request(rows(1), raw=True, name="iris"), missing, f"has the model '{NAME}', not 'iris'"),
        "another version": (version, missing, "has the version 'v1', not 'v0'"),
        "another input": (changed(name="x"), bad, "inputs must be the one tensor 'features'"),
        "two inputs": (two_inputs, bad, "inputs must be the one tensor 'features'"),
        "another type": (changed(datatype="FP64"), bad, "must be FP32, not 'FP64'"),
        "one dimension": (changed(shape=[2 * FEATURES]), bad, "[1 to 1000, 6], not [12]"),
        "too wide": (changed(shape=[1, FEATURES * 2]), bad, "[1 to 1000, 6], not [1, 12]"),
        "no rows": (changed(shape=[0, FEATURES]), bad, "not [0, 6]"),
        "negative rows": (changed(shape=[-1, FEATURES]), bad, "not [-1, 6]"),
        "too many rows": (changed(shape=[1001, FEATURES]), bad, "not [1001, 6]"),
        "raw and contents": (both, bad, "contents must then be left out"),
        "raw too short": (short_raw, bad, "must be 48 bytes for this shape, not 44"),
        "contents too short": (short, bad, "must hold 12 numbers for this shape, not 11"),
        "another output": (other_output, bad, "the only output is 'outputs', not 'logits'"),
    }


WRONG = wrong_requests()


@pytest.mark.parametrize("case", WRONG)
async def test_what_does_not_fit_is_refused_with_a_sentence(served: tuple[str, Caller], case: str) -> None:
    """It names the field and what it must be, and the server goes on."""
    made, code, sentence = WRONG[case]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served[1](OPEN_INFERENCE, "ModelInfer", made)
    assert caught.value.code() is code
    assert sentence in str(caught.value.details())


async def test_the_server_describes_itself(served: tuple[str, Caller]) -> None:
    """Live, ready, and ready for this model alone; the tensors are in the metadata."""
    caller = served[1]
    assert (await caller(OPEN_INFERENCE, "ServerLive", oip.ServerLiveRequest())).live
    assert (await caller(OPEN_INFERENCE, "ServerReady", oip.ServerReadyRequest())).ready
    for name, ready in ((NAME, True), ("dispatch", True), ("iris", False)):
        assert (await caller(OPEN_INFERENCE, "ModelReady", oip.ModelReadyRequest(name=name))).ready is ready
    server = await caller(OPEN_INFERENCE, "ServerMetadata", oip.ServerMetadataRequest())
    assert (server.name, server.version) == ("turnout-model-server", "v1")
    model = await caller(OPEN_INFERENCE, "ModelMetadata", oip.ModelMetadataRequest(name="dispatch"))
    assert (model.name, list(model.versions), model.platform) == (NAME, ["v1"], "onnxruntime_onnx")
    tensors = [(t.name, t.datatype, list(t.shape)) for t in (*model.inputs, *model.outputs)]
    assert tensors == [("features", "FP32", [-1, FEATURES]), ("outputs", "FP32", [-1, 1])]


FOREIGN_CLIENT = """
import json, sys
import numpy as np
import tritonclient.grpc as triton
address, name = sys.argv[1:]
values = np.array(json.load(sys.stdin), np.float32)
client = triton.InferenceServerClient(address)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(name)
tensor = triton.InferInput("features", list(values.shape), "FP32")
tensor.set_data_from_numpy(values)
print(json.dumps(client.infer(name, [tensor]).as_numpy("outputs").tolist()))
client.close()
"""


async def test_a_client_that_is_not_ours_gets_its_answers(served: tuple[str, Caller]) -> None:
    """tritonclient, unchanged, in a process of its own: it brings its own copy of the protocol."""
    values = rows(5)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FOREIGN_CLIENT, served[0], NAME],
        input=json.dumps(values.tolist()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.array(json.loads(done.stdout)), TRAINED.answers(values), atol=1e-6)
