"""A router in process with a fake model server behind it: what the router's tests stand on."""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import yaml
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from prometheus_client import CollectorRegistry

from bentos.family import load
from router import journal
from router.bootstrap import Router, running
from services.runtime.call import Call
from services.runtime.grpc_binding import bind
from services.runtime.serving import BACKEND_OPTIONS, Server, serving
from turnout.v1 import ledger_pb2, model_pb2, prediction_pb2

ROW = {"severity": 4.0, "distance_km": 2.5, "response_time_min": 6.0, "hour": 13.0, "weekday": 2.0}
SCHEMA = load("dispatch").schema
PREDICTIONS = prediction_pb2.DESCRIPTOR.services_by_name["PredictionService"]
Behaviour = Callable[[list[float]], "float | None"]


def first_feature(row: list[float]) -> float:
    """The well-behaved fake model: severity / 10."""
    return row[0] / 10


@dataclass
class FakeModel:
    """A ModelService whose answers a test chooses; `behaviour` gives None to stay silent and may raise."""

    behaviour: Behaviour = first_feature
    version: str = "fake:1"
    schema_digest: int = SCHEMA.digest
    rows_seen: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event | None = None
    """Answers wait for it, once it is given."""

    async def get_model(self, _: model_pb2.GetModelRequest, __: Call) -> model_pb2.GetModelResponse:
        return model_pb2.GetModelResponse(
            family="dispatch", variant="fake", version=self.version, schema_digest=self.schema_digest, outputs=["p"]
        )

    async def attribute(self, request: model_pb2.AttributeRequest, _: Call) -> model_pb2.AttributeResponse:
        row = SCHEMA.decode(request.tensor)
        contributions = [0.0] * len(row)
        contributions[0] = row[0] / 10 - 0.1
        return model_pb2.AttributeResponse(value=row[0] / 10, base_value=0.1, contributions=contributions)

    async def infer_stream(
        self, requests: AsyncIterator[model_pb2.InferStreamRequest], _: Call
    ) -> AsyncIterator[model_pb2.InferStreamResponse]:
        async for frame in requests:
            reply = self._answer(frame)
            if self.held is not None:
                await self.held.wait()
            yield reply

    def _answer(self, frame: model_pb2.InferStreamRequest) -> model_pb2.InferStreamResponse:
        reply = model_pb2.InferStreamResponse()
        tensor, offset = b"", 0
        for call_id, rows in zip(frame.call_ids, frame.rows, strict=True):
            outputs = []
            for _ in range(rows):
                outputs.append(self.behaviour(list(SCHEMA.decode(frame.tensor[offset : offset + SCHEMA.row_bytes]))))
                offset += SCHEMA.row_bytes
            self.rows_seen += rows
            if None in outputs:
                continue
            if -13.0 in outputs:
                reply.failures.add(call_id=call_id, code=grpc.StatusCode.INTERNAL.value[0], message="inference failed")
                continue
            known = [output for output in outputs if output is not None and output != -99.0]
            tensor += struct.pack(f"<{len(known)}f", *known)
            reply.call_ids.append(call_id)
            reply.rows.append(len(known))
        reply.tensor = tensor
        self.asked.set()
        return reply


class Caller:
    """Calls any method of a service by its name, over plain grpc.aio."""

    def __init__(self, address: str, service: ServiceDescriptor = PREDICTIONS) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._service = service

    def method(self, name: str) -> Any:
        method = self._service.methods_by_name[name]
        kind: Any = self._channel.stream_stream if method.client_streaming else self._channel.unary_unary
        return kind(
            f"/{self._service.full_name}/{name}",
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )

    async def __call__(self, name: str, request: Message | bytes, *, timeout: float = 5.0, **options: Any) -> Any:  # noqa: ASYNC109
        return await self.method(name)(request, timeout=timeout, **options)

    async def predict(self, *, timeout: float = 5.0, **fields: object) -> prediction_pb2.PredictResponse:  # noqa: ASYNC109
        request = prediction_pb2.PredictRequest(**{"family": "dispatch", "numbers": ROW, **fields})  # type: ignore[arg-type]
        return await self("Predict", request, timeout=timeout)

    async def close(self) -> None:
        await self._channel.close()


@dataclass
class Platform:
    """A running router, its caller, its fake model, and its file."""

    router: Router
    call: Caller
    model: FakeModel
    config_path: Path
    config: dict[str, Any]

    def write(self, **changes: object) -> None:
        """Writes the configuration file, changed."""
        self.config.update(changes)
        self.config_path.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def decisions(self) -> list[ledger_pb2.Decision]:
        """The journal's decisions, in order."""
        return [r.decision for r in self.records() if r.HasField("decision")]

    def records(self) -> list[ledger_pb2.JournalRecord]:
        """The journal's records, in order."""
        payloads = journal.newest(self.router.journal.folder, 1_000_000)
        return [ledger_pb2.JournalRecord.FromString(payload) for payload in payloads]


def experiment(kind: str = "weighted", *, rules: float = 0, model: float = 100, **fields: object) -> dict[str, object]:
    """An experiment between the rules and the fake model."""
    return {
        "revision": 1,
        "salt": "test",
        "champion": "control",
        "strategy": {"kind": kind},
        "arms": {"control": {"variant": "rules", "weight": rules}, "candidate": {"variant": "fake", "weight": model}},
        **fields,
    }


@contextlib.asynccontextmanager
async def model_serving(model: FakeModel, address: str) -> AsyncIterator[Server]:
    """Serves a fake model."""
    service = model_pb2.DESCRIPTOR.services_by_name["ModelService"]
    async with serving(lambda _: [bind(service, model)], address, options=BACKEND_OPTIONS, drain_seconds=0) as server:
        yield server


@contextlib.asynccontextmanager
async def platform(*, with_model: bool = True, **changes: object) -> AsyncIterator[Platform]:
    """Runs a router with (or without) a fake model; `changes` go into turnout.yaml."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turnout.yaml"
        model = FakeModel()
        address = f"unix:{folder}/m.sock"
        config: dict[str, Any] = {
            "home": "home",
            "router": {"grpc": "127.0.0.1:0", "metrics": "127.0.0.1:0"},
            "hub": {"grpc": f"unix:{folder}/hub.sock"},
            "families": {"dispatch": {"variants": {"fake": {"addresses": [address]}}}},
            "experiments": {"dispatch": experiment()},
            **changes,
        }
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        async with contextlib.AsyncExitStack() as stack:
            if with_model:
                await stack.enter_async_context(model_serving(model, address))
            router = await stack.enter_async_context(running(path, name="r1", registry=CollectorRegistry()))
            caller = Caller(router.server.address)
            stack.push_async_callback(caller.close)
            if with_model:
                await connected(router)
            yield Platform(router, caller, model, path, config)


async def connected(router: Router, variant: str = "fake") -> None:
    """Waits until the router's link to a variant is open."""
    async with asyncio.timeout(10):
        while router.decider.table.routes["dispatch"].pools[variant].pick() is None:
            await asyncio.sleep(0.005)


NAN = math.nan
