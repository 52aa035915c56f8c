"""Runs the dispatch service: `python -m services.dispatch --router 127.0.0.1:8001 --listen 127.0.0.1:8005`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from services.dispatch.bootstrap import running
from services.runtime.logs import configure_logs
from services.runtime.serving import announce, until_signalled


async def run(router: str, listen: str) -> None:
    """Serves until SIGTERM or SIGINT."""
    async with running(router, listen, token=os.environ.get("TURNOUT_TOKEN")) as server:
        announce("dispatch", grpc=server.address)
        await until_signalled()


def main() -> int:
    """Gives the exit code: 2 for an address that cannot be used."""
    parser = argparse.ArgumentParser(prog="dispatch", description=__doc__)
    parser.add_argument("--router", default="127.0.0.1:8001", help="the router; TURNOUT_TOKEN holds its credential")
    parser.add_argument("--listen", default="127.0.0.1:8005", help="loopback only: callers carry no credential")
    arguments = parser.parse_args()
    configure_logs("dispatch")
    try:
        asyncio.run(run(arguments.router, arguments.listen))
    except OSError as error:
        print(f"dispatch: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
