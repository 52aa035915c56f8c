"""ExperimentService over gRPC, with nothing else of the hub, and a router that says what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry

from services.control.composition import steering
from services.control.metrics import ControlMetrics
from services.control.watching import Pace
from services.hub.dry_run import decide
from services.runtime.database import open_database
from services.runtime.grpc_binding import bind
from services.runtime.serving import BACKEND_OPTIONS, Server, serving
from turnout.v1 import experiment_pb2

SERVICE = experiment_pb2.DESCRIPTOR.services_by_name["ExperimentService"]
CONFIG = """\
hub: {grpc: "127.0.0.1:0", metrics: "127.0.0.1:0"}
families:
  dispatch: {variants: {xgb: {addresses: ["127.0.0.1:9"]}, lgb: {addresses: ["127.0.0.1:9"]}}}
experiments:
  dispatch:
    salt: s
    champion: rules
    strategy: {kind: weighted}
    arms:
      rules: {variant: rules, weight: 50}
      xgb: {variant: xgb, weight: 50}
"""


@dataclass
class Control:
    """A running service and a connection to it."""

    channel: grpc.aio.Channel
    registry: CollectorRegistry
    server: Server
    folder: Path
    streams: list[Any] = field(default_factory=list)

    async def ask(self, request: Message) -> Any:
        """Calls the unary method that takes this request."""
        method = SERVICE.methods_by_name[type(request).__name__.removesuffix("Request")]
        call: Any = self.channel.unary_unary(
            f"/{SERVICE.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return await call(request, timeout=10)

    async def refused(self, request: Message) -> tuple[grpc.StatusCode, str, str]:
        """Calls and gives the error's code, the field at fault, and the sentence."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.ask(request)
        for key, value in caught.value.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                for detail in status_pb2.Status.FromString(value).details:
                    bad = error_details_pb2.BadRequest()
                    if detail.Unpack(bad):
                        return caught.value.code(), bad.field_violations[0].field, caught.value.details() or ""
        return caught.value.code(), "", caught.value.details() or ""

    async def pause(self, revision: int) -> experiment_pb2.Experiment:
        """Pauses the experiment."""
        request = experiment_pb2.PauseExperimentRequest(name="dispatch", base_revision=revision)
        paused: experiment_pb2.Experiment = (await self.ask(request)).experiment
        return paused

    async def toggle(self, revision: int) -> experiment_pb2.Experiment:
        """Makes any change."""
        weights = {"xgb": float(revision)}
        request = experiment_pb2.SetStrategyRequest(name="dispatch", base_revision=revision, weights=weights)
        changed: experiment_pb2.Experiment = (await self.ask(request)).experiment
        return changed

    async def status(self, router: str) -> experiment_pb2.RouterStatus:
        """What the hub knows of a router."""
        found = (await self.ask(experiment_pb2.GetStatusRequest())).routers
        (one,) = [status for status in found if status.router == router]
        return one

    def watcher(self, name: str = "router-1", *, options: tuple[tuple[str, int], ...] = ()) -> Watcher:
        """Opens a stream; with options on a connection of its own."""
        channel = grpc.aio.insecure_channel(self.server.address, options=options) if options else self.channel
        return Watcher(name, channel)


class Watcher:
    """A router's stream."""

    def __init__(self, name: str, channel: grpc.aio.Channel) -> None:
        self.name = name
        self.call: Any = channel.stream_stream(
            f"/{SERVICE.full_name}/Watch",
            request_serializer=experiment_pb2.WatchRequest.SerializeToString,
            response_deserializer=experiment_pb2.WatchResponse.FromString,
        )()

    async def hello(self, version: int = 0) -> experiment_pb2.WatchResponse:
        """Says hello and gives the first response."""
        told = experiment_pb2.WatchHello(router=self.name, applied_version=version)
        await self.call.write(experiment_pb2.WatchRequest(hello=told))
        return await self.read()

    async def read(self) -> experiment_pb2.WatchResponse:
        """Gives the next response."""
        async with asyncio.timeout(10):
            response = await self.call.read()
        assert response is not grpc.aio.EOF, "the stream ended"
        return response

    async def next_set(self) -> experiment_pb2.WatchResponse:
        """Gives the next response that is no heartbeat."""
        while not (response := await self.read()).HasField("set"):
            pass
        return response

    async def answer(
        self, response: experiment_pb2.WatchResponse, version: int | None = None, refusal: str = ""
    ) -> None:
        """Acknowledges, or refuses."""
        applied = response.version if version is None else version
        told = experiment_pb2.WatchAcknowledgement(nonce=response.nonce, applied_version=applied, refusal=refusal)
        await self.call.write(experiment_pb2.WatchRequest(acknowledgement=told))

    async def ready(self, *variants: tuple[str, str]) -> None:
        """Tells what it has ready."""
        told = [experiment_pb2.ReadyVariant(family=family, variant=variant) for family, variant in variants]
        await self.call.write(experiment_pb2.WatchRequest(readiness=experiment_pb2.WatchReadiness(ready=told)))

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """Reads until the stream ends; gives how."""
        async with asyncio.timeout(10):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            return await self.call.code(), await self.call.details()


_clock = itertools.count(1_700_000_000_000_000, 1_000)


@contextlib.asynccontextmanager
async def control(folder: Path, url: str, *, pace: Pace | None = None) -> AsyncIterator[Control]:
    """Serves until the block ends."""
    config = folder / "turnout.yaml"
    if not config.exists():
        config.write_text(CONFIG)
    registry = CollectorRegistry()
    with open_database(url) as database:
        metrics = ControlMetrics(registry)
        async with steering(
            database, config, decide, metrics=metrics, now_us=lambda: next(_clock), pace=pace
        ) as service:

            def handlers(server: Server) -> list[grpc.GenericRpcHandler]:
                service.ends_with(server.stopping)
                return [bind(SERVICE, service)]

            async with (
                serving(handlers, "127.0.0.1:0", options=BACKEND_OPTIONS, drain_seconds=2.0) as server,
                grpc.aio.insecure_channel(server.address) as channel,
            ):
                yield Control(channel, registry, server, folder)


async def until(holds: Any) -> Any:
    """Waits until an asynchronous condition holds, 10 s at most; gives what it gave."""
    async with asyncio.timeout(10):
        while not (found := await holds()):
            await asyncio.sleep(0.005)
    return found
