"""A client of the Open Inference Protocol that is not ours predicts through the router, unchanged."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from tests.integration.batches import batch
from tests.integration.platform_under_test import Platform, platform
from turnout.v1 import prediction_pb2

# In a process of its own: its stubs and ours describe the same messages and cannot meet in one.
CLIENT = """
import json, sys
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
rows = json.loads(sys.argv[2])
names = ["severity", "distance_km", "hour"]
inputs = []
for name in names:
    tensor = triton.InferInput(name, [len(rows)], "FP64")
    tensor.set_data_from_numpy(np.array([row[name] for row in rows], dtype=np.float64))
    inputs.append(tensor)
kinds = triton.InferInput("call_type", [len(rows)], "BYTES")
kinds.set_data_from_numpy(np.array([row["call_type"].encode() for row in rows], dtype=np.object_))
inputs.append(kinds)
result = client.infer("dispatch", inputs, request_id="r7", client_timeout=10, parameters={"unit_id": "u1"})
texts = lambda name: [item.decode() for item in result.as_numpy(name)]
metadata = client.get_model_metadata("dispatch")
try:
    client.infer("nope", inputs, client_timeout=10)
    refused = ""
except triton.InferenceServerException as error:
    refused = error.status()
chosen = client.infer("dispatch", inputs, outputs=[triton.InferRequestedOutput("value")], client_timeout=10)
print(json.dumps({
    "live": client.is_server_live(), "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready("dispatch"), "other_ready": client.is_model_ready("nope"),
    "server": client.get_server_metadata().name,
    "inputs": {t.name: t.datatype for t in metadata.inputs}, "outputs": [t.name for t in metadata.outputs],
    "id": result.get_response().id, "value": result.as_numpy("value").tolist(),
    "confidence": result.as_numpy("confidence").tolist(), "arm": texts("arm"),
    "served_variant": texts("served_variant"), "decision_id": texts("decision_id"),
    "refused": refused, "chosen": [t.name for t in chosen.get_response().outputs],
}))
"""
ROWS = [
    {"severity": float(1 + number % 5), "distance_km": number / 3, "hour": 5.5, "call_type": kind}
    for number, kind in enumerate(["fire", "medical", "other", "stroke", "fire", "rescue", "alarm"])
]


async def told(p: Platform) -> dict[str, object]:
    """Runs the client and gives what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", CLIENT, p.router.server.address, json.dumps(ROWS)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return dict(json.loads(output))


@pytest.mark.parametrize("with_model", [True, False])
async def test_a_foreign_client_gets_the_answers_of_turnout_itself(with_model: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Liveness, metadata, and the very values that turnout.v1 gives for the same rows, by model and by rules."""
    async with platform(with_model=with_model) as p:
        answers = await told(p)
        rows = [
            prediction_pb2.PredictRequest(
                unit_id="u1",
                numbers={name: value for name, value in row.items() if isinstance(value, float)},
                categories={"call_type": str(row["call_type"])},
            )
            for row in ROWS
        ]
        reply = await p.call("PredictBatch", batch(rows))
        ids = {decision.decision_id for decision in p.decisions()}
        recorded = {decision.features for decision in p.decisions()}
    assert answers["live"] is answers["ready"] is answers["model_ready"] is True
    assert (answers["other_ready"], answers["server"], answers["id"]) == (False, "turnout", "r7")
    assert answers["refused"] == "StatusCode.NOT_FOUND"
    assert answers["chosen"] == ["value"]
    assert answers["value"] == list(reply.values)
    assert answers["confidence"] == list(reply.confidences)
    assert answers["arm"] == ["candidate"] * len(ROWS)
    assert answers["served_variant"] == ["fake" if with_model else "rules"] * len(ROWS)
    assert isinstance(answers["decision_id"], list)
    assert set(answers["decision_id"]) < ids
    assert len(recorded) == len(ROWS), "the same rows, however they came"
    assert isinstance(answers["inputs"], dict)
    assert (answers["inputs"]["severity"], answers["inputs"]["call_type"]) == ("FP64", "BYTES")
