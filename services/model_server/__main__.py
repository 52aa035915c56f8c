"""Serves one exported bento: `python -m services.model_server --bento DIR --listen ADDRESS --metrics HOST:PORT`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector

from services.model_server.bootstrap import load, model_server
from services.model_server.bundle import Bundle
from services.model_server.engine import Engine
from services.runtime.errors import TurnoutError
from services.runtime.home import keep_private
from services.runtime.logs import configure_logs
from services.runtime.metrics_server import serve_metrics
from services.runtime.serving import announce, until_signalled

_WRONG: Final = 2
"""Exit code for wrong arguments, a wrong bento or an address that is taken."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server until SIGTERM or SIGINT; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.model_server", description="Serves one exported bento.")
    parser.add_argument("--bento", type=Path, required=True, help="folder of the exported bento")
    parser.add_argument("--listen", default="127.0.0.1:0", help="unix:/path or host:port; port 0 takes a free one")
    parser.add_argument("--metrics", default="127.0.0.1:0", help="host:port of /metrics; port 0 takes a free one")
    parser.add_argument("--drain-seconds", type=float, default=20.0, help="time to finish what was accepted")
    options = parser.parse_args(arguments)
    configure_logs("model_server")
    keep_private()
    try:
        metrics = _host_and_port(options.metrics)
        bundle, engine = load(options.bento)
        asyncio.run(_serve(bundle, engine, listen=options.listen, metrics=metrics, drain_seconds=options.drain_seconds))
    except (TurnoutError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return _WRONG
    return 0


async def _serve(
    bundle: Bundle, engine: Engine, *, listen: str, metrics: tuple[str, int], drain_seconds: float
) -> None:
    host, port = metrics
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    try:
        http, thread = serve_metrics(host, port, registry)
    except OSError as error:
        raise OSError(f"{host}:{port} cannot be bound: is another process using it?") from error
    try:
        async with model_server(
            bundle, engine, listen, registry=registry, clock=time.monotonic, drain_seconds=drain_seconds
        ) as server:
            # What is loaded by now stays for good: leave it out of every later collection.
            gc.collect()
            gc.freeze()
            stopped = asyncio.create_task(until_signalled())
            # The task's first step sets the handlers: whoever reads the ready line may stop us at once.
            await asyncio.sleep(0)
            announce("model_server", grpc=server.address, metrics=f"{host}:{http.server_port}", version=bundle.tag)
            await stopped
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise OSError(f"--metrics must be host:port, not {address!r}")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Past everything that would wait for a worker thread in which a model hangs.
    os._exit(code)
