"""A grpc.aio server from start to drain, the same in production and in tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

RECEIVE_LIMIT_BYTES: Final = 1 << 20
SERVER_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.enable_channelz", 0),
    ("grpc.max_receive_message_length", RECEIVE_LIMIT_BYTES),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.max_concurrent_streams", 100),
    # What a client sends beyond that waits at the client. Without this, grpc refuses some of a burst, with UNAVAILABLE:
    # it counts streams that are answered already and not yet cleaned up (283 of 500 calls at once, measured).
    ("grpc.http.overload_protection", 0),
    # grpc refuses calls at random, with CANCELLED, once 1 000 wait to be taken up: a flood of half-sent calls cost
    # others theirs. Admission refuses instead, by name and with a hint.
    ("grpc.server.max_pending_requests", 8_000),
    ("grpc.server.max_pending_requests_hard_limit", 16_000),
    ("grpc.max_metadata_size", 16 << 10),
    # Callers' connections are renewed, so that new pods get their share: 60 s, and 30 s more to finish.
    ("grpc.max_connection_age_ms", 60_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # No pings to estimate bandwidth: on small messages they only cost CPU.
    ("grpc.http2.bdp_probe", 0),
)
BACKEND_OPTIONS: Final = (
    # A backend's link lives as long as it can: the router watches and renews it itself.
    *(pair for pair in SERVER_OPTIONS if "connection_age" not in pair[0] and "receive_message" not in pair[0]),
    ("grpc.max_receive_message_length", 16 << 20),
    # The router's pings are asked for. On an idle link of a busy machine some come closer together than they were sent,
    # and grpc would end the connection for it (GOAWAY, too_many_pings).
    ("grpc.http2.max_ping_strikes", 0),
)


@dataclass
class Server:
    """A running server: its bound address, its health, and what to do when it drains."""

    address: str
    health: health_aio.HealthServicer
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the drain begins: long streams end themselves then."""

    async def set_serving(self, service: str, serving: bool) -> None:  # noqa: FBT001 - the health protocol's own flag
        """Sets the health of a service ("" for the whole server)."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self.health.set(service, status)


@contextlib.asynccontextmanager
async def serving(
    handlers: Callable[[Server], Sequence[grpc.GenericRpcHandler]],
    address: str,
    *,
    options: Sequence[tuple[str, int]] = SERVER_OPTIONS,
    reflected: Sequence[str] = (),
    drain_seconds: float = 20.0,
) -> AsyncIterator[Server]:
    """Serves until the block ends, then drains: NOT_SERVING, streams asked to end, calls under way finished.

    Args:
        handlers: gives the services; it gets the Server to watch `stopping`.
        address: host:port or unix:path; port 0 takes a free one, see `Server.address`.
        options: grpc channel arguments.
        reflected: full names of services to offer by reflection; none turns it off.
        drain_seconds: how long calls under way may take to finish.

    Raises:
        OSError: the address cannot be bound.
    """
    health = health_aio.HealthServicer()
    running = Server(address=address, health=health)
    # A fresh HealthServicer claims SERVING for the whole server.
    await running.set_serving("", serving=False)
    server = grpc.aio.server(options=list(options))
    server.add_generic_rpc_handlers(tuple(handlers(running)))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if reflected:
        # Off by default, and not free to import.
        from grpc_reflection.v1alpha import reflection

        reflection.enable_server_reflection((*reflected, reflection.SERVICE_NAME), server)
    running.address = _listen(server, address)
    await server.start()
    await running.set_serving("", serving=True)
    try:
        yield running
    finally:
        await health.enter_graceful_shutdown()
        running.stopping.set()
        await server.stop(drain_seconds)


def _listen(server: grpc.aio.Server, address: str) -> str:
    if address.startswith("unix:"):
        # A socket file left by a process that was killed would refuse the address for ever.
        Path(address.removeprefix("unix:")).unlink(missing_ok=True)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"{address} cannot be bound: is another process using it?") from error
    if address.startswith("unix:"):
        Path(address.removeprefix("unix:")).chmod(0o600)
        return address
    return f"{address.rpartition(':')[0]}:{port}"


def announce(service: str, **addresses: str) -> None:
    """Prints the one line on standard output that tells a supervisor that this process is ready, and where."""
    sys.stdout.write(json.dumps({"event": "ready", "service": service, **addresses}) + "\n")
    sys.stdout.flush()


async def until_signalled() -> None:
    """Waits for SIGTERM or SIGINT."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()
