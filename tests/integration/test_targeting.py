"""Targeting rules look at the same things by whichever way a call comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from inference import open_inference_pb2 as oip
from tests.integration.platform_under_test import ROW, Caller, Platform, experiment, platform
from turnout.v1 import prediction_pb2

EXPERIMENTS = {
    "beta": {
        "family": "dispatch",
        "salt": "b",
        "champion": "only",
        "strategy": {"kind": "random"},
        "arms": {"only": {"variant": "rules"}},
        "when": 'metadata["channel"] == "beta" && numbers["severity"] > 3.5',
    },
    "rest": {**experiment(), "family": "dispatch", "priority": -1},
}
METADATA = (("channel", "beta"),)


async def by_predict(p: Platform, metadata: tuple[tuple[str, str], ...]) -> str:
    request = prediction_pb2.PredictRequest(family="dispatch", numbers=ROW)
    return str((await p.call("Predict", request, metadata=metadata)).assignment.experiment)


async def by_batch(p: Platform, metadata: tuple[tuple[str, str], ...]) -> str:
    numbers = {name: prediction_pb2.NumberColumn(values=[value] * 3) for name, value in ROW.items()}
    request = prediction_pb2.PredictBatchRequest(family="dispatch", rows=3, numbers=numbers)
    (shared,) = (await p.call("PredictBatch", request, metadata=metadata)).shared
    return str(shared.assignment.experiment)


async def by_stream(p: Platform, metadata: tuple[tuple[str, str], ...]) -> str:
    request = prediction_pb2.PredictRequest(family="dispatch", numbers=ROW)
    stream = p.call.method("PredictStream")(metadata=metadata)
    calls = [prediction_pb2.PredictCall(call_id=1, request=request)]
    await stream.write(prediction_pb2.PredictStreamRequest(calls=calls))
    (result,) = (await stream.read()).results
    stream.cancel()
    return str(result.prediction.assignment.experiment)


async def by_explain(p: Platform, metadata: tuple[tuple[str, str], ...]) -> str:
    request = prediction_pb2.PredictRequest(family="dispatch", numbers=ROW)
    said = await p.call("Explain", prediction_pb2.ExplainRequest(request=request), metadata=metadata)
    return {"rules": "beta", "fake": "rest"}[said.variant]


async def by_open_inference(p: Platform, metadata: tuple[tuple[str, str], ...], **parameters: str) -> str:
    caller = Caller(p.router.server.address, oip.DESCRIPTOR.services_by_name["GRPCInferenceService"])
    tensors = [
        oip.ModelInferRequest.InferInputTensor(
            name=name, datatype="FP64", shape=[1], contents=oip.InferTensorContents(fp64_contents=[value])
        )
        for name, value in ROW.items()
    ]
    request = oip.ModelInferRequest(model_name="dispatch", inputs=tensors)
    for name, text in parameters.items():
        request.parameters[name].string_param = text
    await caller("ModelInfer", request, metadata=metadata)
    await caller.close()
    return str(p.decisions()[-1].prediction.assignment.experiment)


WAYS: dict[str, Callable[..., Any]] = {
    "predict": by_predict,
    "batch": by_batch,
    "stream": by_stream,
    "explain": by_explain,
    "open_inference": by_open_inference,
}


@pytest.mark.parametrize("way", WAYS)
async def test_metadata_of_the_call_steer_by_every_way(way: str) -> None:
    """The same call is taken by the same experiment; what the condition looked at stands with the decision."""
    async with platform(experiments=EXPERIMENTS) as p:
        assert await WAYS[way](p, METADATA) == "beta"
        assert await WAYS[way](p, ()) == "rest"
        if way != "explain":
            async with asyncio.timeout(5):
                while len(p.decisions()) < 2:
                    await asyncio.sleep(0.01)
            told = [dict(decision.attributes) for decision in p.decisions()]
            assert told[0] == {"channel": "beta"}
            assert told[-1] == {}


async def test_attributes_of_a_batch_are_those_of_a_single_call() -> None:
    """They stand before the call's metadata, hold for all rows, are recorded with each, and have the same bounds."""
    numbers = {name: prediction_pb2.NumberColumn(values=[value, value]) for name, value in ROW.items()}
    numbers["severity"] = prediction_pb2.NumberColumn(values=[4.0, 3.0])
    request = prediction_pb2.PredictBatchRequest(family="dispatch", rows=2, numbers=numbers)
    async with platform(experiments=EXPERIMENTS) as p:

        async def asked(**attributes: str) -> list[str]:
            request.ClearField("attributes")
            request.attributes.update(attributes)
            reply = await p.call("PredictBatch", request, metadata=METADATA)
            return [reply.shared[place].assignment.experiment for place in reply.shared_places]

        assert await asked(channel="web") == ["rest", "rest"]
        assert await asked(channel="beta") == ["beta", "rest"]
        assert await asked(unheeded="1") == ["beta", "rest"]
        told = [dict(decision.attributes) for decision in p.decisions()]
        assert told == [{"channel": "web"}] * 2 + [{"channel": "beta"}] * 4
        for attributes, saying in (
            ({str(number): "" for number in range(33)}, "attributes must be at most 32, not 33"),
            ({"channel": "x" * 1025}, "attribute 'channel' must be at most 1024 characters"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asked(**attributes)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert saying in (refused.value.details() or "")


async def test_parameters_of_the_open_protocol_are_attributes() -> None:
    """Texts that are not meant for the router itself; they stand before the call's metadata."""
    async with platform(experiments=EXPERIMENTS) as p:
        assert await by_open_inference(p, (), channel="beta") == "beta"
        assert await by_open_inference(p, METADATA, channel="web") == "rest"
