"""A model server that misbehaves as it is told: `python -m tests.chaos.double --listen ADDRESS --script FILE`.

It speaks ModelService like a real one. The script file holds one word, read whenever a call comes:
well, hang (the interpreter, for good), leak (10 MB a frame), raise, nan, wrong (1.7), shape (too few answers), slow
(400 ms), silent (never an answer), row (raises for rows whose severity is 1).
"""

from __future__ import annotations

import argparse
import asyncio
import math
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from bentos.family import load
from services.runtime.call import Call
from services.runtime.grpc_binding import bind
from services.runtime.logs import configure_logs
from services.runtime.serving import BACKEND_OPTIONS, Server, announce, serving, until_signalled
from turnout.v1 import model_pb2

SCHEMA = load("dispatch").schema
_LEAK_BYTES = 10 << 20
_MOST_LEAKED = 60


class Double:
    """turnout.v1.ModelService, by the script."""

    def __init__(self, script: Path) -> None:
        self._script = script
        self._leaked: list[bytearray] = []

    async def get_model(self, _: model_pb2.GetModelRequest, __: Call) -> model_pb2.GetModelResponse:
        """Says that it serves what it should."""
        return model_pb2.GetModelResponse(
            family="dispatch",
            variant="linear",
            version="double:1",
            schema_digest=SCHEMA.digest,
            features=SCHEMA.names,
            outputs=["p"],
        )

    async def attribute(self, _: model_pb2.AttributeRequest, __: Call) -> model_pb2.AttributeResponse:
        """Knows no Shapley values."""
        raise NotImplementedError

    async def infer_stream(
        self, requests: AsyncIterator[model_pb2.InferStreamRequest], _: Call
    ) -> AsyncIterator[model_pb2.InferStreamResponse]:
        """Answers 0.25 for every row, or does what the script says."""
        async for frame in requests:
            script = self._script.read_text().strip()
            if script == "hang":
                # The whole interpreter: no other coroutine runs, no signal handler either.
                while True:
                    math.factorial(20_000)
            if script == "raise":
                raise RuntimeError("secret: the model failed")
            if script == "leak" and len(self._leaked) < _MOST_LEAKED:
                self._leaked.append(bytearray(_LEAK_BYTES))
            if script == "slow":
                await asyncio.sleep(0.4)
            if script != "silent":
                yield _answer(frame, script)


def _answer(frame: model_pb2.InferStreamRequest, script: str) -> model_pb2.InferStreamResponse:
    reply, tensor, offset = model_pb2.InferStreamResponse(), b"", 0
    value = {"nan": math.nan, "wrong": 1.7}.get(script, 0.25)
    for call_id, rows in zip(frame.call_ids, frame.rows, strict=True):
        severities = [
            SCHEMA.decode(frame.tensor[offset + row * SCHEMA.row_bytes : offset + (row + 1) * SCHEMA.row_bytes])[0]
            for row in range(rows)
        ]
        offset += rows * SCHEMA.row_bytes
        if script == "row" and 1.0 in severities:
            reply.failures.add(call_id=call_id, code=grpc.StatusCode.INTERNAL.value[0], message="inference failed")
            continue
        reply.call_ids.append(call_id)
        reply.rows.append(rows)
        tensor += struct.pack(f"<{rows}f", *[value] * rows)
    reply.tensor = tensor[:-4] if script == "shape" else tensor
    return reply


async def run(address: str, script: Path) -> None:
    """Serves until SIGTERM."""

    def handlers(_: Server) -> list[grpc.GenericRpcHandler]:
        return [bind(model_pb2.DESCRIPTOR.services_by_name["ModelService"], Double(script))]

    async with serving(handlers, address, options=BACKEND_OPTIONS, drain_seconds=1.0) as server:
        announce("double", grpc=server.address, at=str(time.time()))
        await until_signalled()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--script", type=Path, required=True)
    options = parser.parse_args()
    configure_logs("double")
    asyncio.run(run(options.listen, options.script))
