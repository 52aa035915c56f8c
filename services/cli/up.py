"""`turnout up`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.cli.output import Format, FormatOption, emit, messages
from services.cli.settings import DEFAULT_CONFIG, ConfigOption, load_config

if TYPE_CHECKING:
    from rich.table import Table

    from services.cli.child import Change
    from services.cli.platform import Platform
    from services.runtime.config import Operator


def up(config: ConfigOption = DEFAULT_CONFIG, output: FormatOption = Format.TABLE) -> None:
    """Start hub, model servers and router on this machine; restart what dies; stop on Ctrl-C.

    The file is followed: a variant that is added, changed or removed starts, restarts or stops its model server.
    SIGHUP replaces every process, one after the other.
    """
    if warning := operator_warning(load_config(config).operators.values(), os.environ.get("TURNOUT_OPERATOR_TOKEN")):
        messages().print(warning, markup=False, soft_wrap=True)
    asyncio.run(_until_interrupted(config, output))


async def _until_interrupted(config: Path, output: Format) -> None:
    from services.cli.platform import running

    loop, work = asyncio.get_running_loop(), asyncio.current_task()
    assert work is not None
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            work.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        with messages().status("starting hub, model servers and router"):
            started = running(config, _tell)
            platform = await started.__aenter__()
        try:
            emit(output, addresses(platform), lambda: _table(platform))
            hung_up = asyncio.Event()
            loop.add_signal_handler(signal.SIGHUP, hung_up.set)
            while await hung_up.wait():
                hung_up.clear()
                await platform.replace_all()
        finally:
            messages().print("stopping; calls under way are finished first")
            await started.__aexit__(None, None, None)
    except asyncio.CancelledError:
        if not interrupted:
            raise


def operator_warning(operators: Iterable[Operator], token: str | None) -> str:
    """Gives what people should know before the router starts whose token the hub does not take; else nothing.

    No reason to refuse the start: the router answers and records without the hub.

    Args:
        operators: those of the file.
        token: what the router is going to show to the hub.
    """
    known = {operator.token_sha256 for operator in operators}
    if not known or (token and hashlib.sha256(token.encode()).hexdigest() in known):
        return ""
    what = "is no operator's token" if token else "is not set"
    return (
        f"TURNOUT_OPERATOR_TOKEN {what}: the hub refuses the router, which answers and records meanwhile, but gets no "
        "change of an experiment; set the token of one of `operators` and start again"
    )


def addresses(platform: Platform) -> dict[str, Any]:
    """Gives each process's id and addresses."""
    return {name: {"pid": child.pid, **child.addresses} for name, child in platform.children.items()}


def _table(platform: Platform) -> Table:
    from rich.table import Table

    table = Table("process", "pid", title="Turnout is up; Ctrl-C stops it", title_justify="left")
    table.add_column("gRPC", overflow="fold")
    table.add_column("metrics", overflow="fold")
    for name, child in platform.children.items():
        where = child.addresses
        table.add_row(name, str(child.pid), where.get("grpc", ""), f"http://{where.get('metrics', '')}/metrics")
        if http := where.get("http"):
            table.caption = f"The {name} also speaks HTTP/JSON at http://{http}, described at /openapi.json."
            table.caption_justify = "left"
    return table


def _tell(change: Change) -> None:
    """Tells what people should know; a first start and a stop that was asked for are no news."""
    if change.reason:
        messages().print(f"{change.name}: {change.reason}", markup=False, soft_wrap=True)
