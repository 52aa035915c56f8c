"""Runs the hub: `python -m services.hub --config turnout.yaml`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector

from services.hub.bootstrap import running
from services.runtime.config import ConfigError, read_config
from services.runtime.database import DatabaseUnusable
from services.runtime.errors import Unavailable
from services.runtime.home import keep_private
from services.runtime.logs import configure_logs
from services.runtime.metrics_server import serve_metrics
from services.runtime.serving import announce, until_signalled
from services.runtime.transcoding.app import transcoder
from services.runtime.transcoding.metrics import HttpMetrics
from services.runtime.transcoding.serving import http_serving

_WRONG: Final = 2
"""Exit code for a wrong configuration, a database that cannot be opened, or an address that is taken."""


async def run(config_path: Path) -> None:
    """Serves until SIGTERM or SIGINT; see `running` for what it raises."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    config = read_config(config_path).hub
    host, _, port = config.metrics.rpartition(":")
    if not port.isdigit():
        raise ConfigError(f"{config_path}: hub.metrics: must be host:port, since browsers and Prometheus read it")
    async with contextlib.AsyncExitStack() as stack:
        hub = await stack.enter_async_context(running(config_path, registry=registry))
        hosts = frozenset(name.lower() for name in config.http_hosts)
        stopping = asyncio.Event()
        metrics = HttpMetrics(registry)
        app = transcoder(hub.services, title="Turnout", hosts=hosts, stopping=stopping, metrics=metrics)
        http = await stack.enter_async_context(http_serving(app, config.http, stopping=stopping))
        try:
            web, thread = serve_metrics(host.strip("[]"), int(port), registry)
        except (OSError, OverflowError) as error:
            raise OSError(f"{host}:{port} cannot be bound: is another process using it?") from error
        try:
            announce("hub", grpc=hub.server.address, metrics=f"{host}:{web.server_port}", http=http)
            await until_signalled()
        finally:
            # Metrics go before the drain: shutdown() waits for one look at the socket only.
            web.shutdown()
            thread.join()
            web.server_close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the hub until SIGTERM or SIGINT; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.hub", description="Keeps the ledger and the experiments.")
    parser.add_argument("--config", type=Path, default=Path("turnout.yaml"))
    options = parser.parse_args(arguments)
    configure_logs("hub")
    keep_private()
    try:
        asyncio.run(run(options.config))
    except (ConfigError, DatabaseUnusable, Unavailable, OSError) as error:
        sys.stderr.write(f"hub: {error}\n")
        return _WRONG
    return 0


if __name__ == "__main__":
    sys.exit(main())
