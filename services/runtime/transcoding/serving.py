"""The HTTP server from start to drain, the same in production and in tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial

import uvicorn
from starlette.applications import Starlette

from services.runtime.transcoding.connections import CROWDED, LIMIT, REQUEST_SECONDS, Connection


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to the process's own entry point."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


@contextlib.asynccontextmanager
async def http_serving(
    app: Starlette,
    address: str,
    *,
    stopping: asyncio.Event,
    drain_seconds: float = 5.0,
    request_seconds: float = REQUEST_SECONDS,
    crowded: int = CROWDED,
) -> AsyncIterator[str]:
    """Serves until the block ends, then lets calls under way finish; gives the bound address, host:port.

    Args:
        app: the application.
        address: host:port; port 0 takes a free one.
        stopping: set when the block ends; the application ends its streams then.
        drain_seconds: how long calls under way may take to finish.
        request_seconds: how long a connection may be without a whole request.
        crowded: from how many connections on a new one takes the place of the longest waiting one.

    Raises:
        OSError: the address cannot be bound.
    """
    host, _, port = address.rpartition(":")
    with _bound(host.strip("[]"), int(port)) as listener:
        config = uvicorn.Config(
            app,
            http=partial(Connection, seconds=request_seconds, crowded=crowded),  # type: ignore[arg-type]  # makes one
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=LIMIT,
            backlog=128,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=int(max(1, drain_seconds)),
            h11_max_incomplete_event_size=16 << 10,
        )
        server = _Server(config)
        running = asyncio.create_task(server.serve(sockets=[listener]), name="http server")
        try:
            while not server.started and not running.done():  # noqa: ASYNC110 - uvicorn tells by a flag alone
                await asyncio.sleep(0.005)
            if running.done():
                await running
            yield f"{host}:{listener.getsockname()[1]}"
        finally:
            stopping.set()
            server.should_exit = True
            await running


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # Only what lingers from before is taken over; a port that somebody listens on stays theirs.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            raise OSError(f"{host}:{port} cannot be bound: is another process using it?") from error
        yield listener
