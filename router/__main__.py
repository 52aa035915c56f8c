"""Runs a router: `python -m router --config turnout.yaml --name router-1`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from router.bootstrap import running
from services.runtime.config import ConfigError, read_config
from services.runtime.home import keep_private
from services.runtime.logs import configure_logs
from services.runtime.metrics_server import serve_metrics
from services.runtime.serving import announce, until_signalled


async def run(config_path: Path, name: str) -> None:
    """Serves until SIGTERM or SIGINT."""
    registry = CollectorRegistry()
    host, _, port = read_config(config_path).router.metrics.rpartition(":")
    token = os.environ.get("TURNOUT_OPERATOR_TOKEN")
    async with running(config_path, name=name, registry=registry, operator_token=token) as router:
        web, _ = serve_metrics(host.strip("[]"), int(port), registry)
        # What exists now stays: the collector need not look at it again, and looks less often at what calls leave.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        announce("router", grpc=router.server.address, metrics=f"{host}:{web.server_port}")
        await until_signalled()
        web.shutdown()


def main() -> int:
    """Gives the exit code: 2 for a wrong configuration or an address that is taken."""
    parser = argparse.ArgumentParser(prog="router", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("turnout.yaml"))
    parser.add_argument("--name", default="router-1", help="names the journal; one router each")
    arguments = parser.parse_args()
    configure_logs("router")
    keep_private()
    try:
        asyncio.run(run(arguments.config, arguments.name))
    except (ConfigError, OSError) as error:
        print(f"router: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
