"""`turnout up` under fire: what it supervises is killed, and replaced, under load."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

import psutil

from tests.chaos.books import compare
from tests.chaos.case import Case, Options, Result
from tests.chaos.stage import FAMILY, VARIANT, Stage, staged
from tests.chaos.traffic import Traffic, Watch

BACK_SECONDS = 15.0
RATE = 60.0


class Up:
    """A running `turnout up`."""

    def __init__(self, process: asyncio.subprocess.Process, addresses: dict[str, dict[str, str]]) -> None:
        self.process = process
        self.addresses = addresses

    @property
    def children(self) -> dict[str, psutil.Process]:
        """The supervised processes by name."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                words = " ".join(child.cmdline())
            except psutil.Error:
                # It is gone, and not yet reaped.
                continue
            for name, module in (("hub", "services.hub"), ("model", "services.model_server"), ("router", " router ")):
                if module in words:
                    found[name] = child
        return found


async def _up(stage: Stage) -> Up:
    """Ends the stage's own processes and has `turnout up` start them, on ports and sockets that stay."""
    port = stage.addresses()[0].rpartition(":")[2]
    for process in (*stage.routers, stage.model, stage.hub):
        await process.stop()
    stage.config["router"]["grpc"] = f"127.0.0.1:{port}"
    del stage.config["families"][FAMILY]["variants"][VARIANT]["addresses"]
    stage.write_config()
    up = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli.tether", str(os.getpid()), "services.cli.main"),
        *("up", "-c", str(stage.config_path), "-o", "json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert up.stdout is not None
    text = b""
    async with asyncio.timeout(60):
        while not text.endswith(b"\n}\n"):
            line = await up.stdout.readline()
            if not line:
                raise RuntimeError("turnout up ended early")
            text += line
    return Up(up, json.loads(text))


async def _supervised(options: Options, name: str, *, kill: bool) -> Result:
    result = Result()
    async with staged(options.seed) as stage:
        up = await _up(stage)
        traffic, watch, over = Traffic(name), Watch(stage.echo.addresses["grpc"], stage.router_pids), asyncio.Event()

        async def flow() -> None:
            while not over.is_set():
                await traffic.run(lambda: [up.addresses["router"]["grpc"]], 30, RATE, retry=True)

        flowing = asyncio.create_task(flow())
        try:
            async with watch.watching():
                await (_kill_each(up, result) if kill else _replace_all(up, result))
                before = len(traffic.by_model)
                await _until(lambda: len(traffic.by_model) > before, "the model answers again", result)
                over.set()
                await flowing
            result.take(traffic, watch, in_time=False)
            result.book(await compare(stage.hub_address, name, traffic.answered))
            up.process.send_signal(signal.SIGTERM)
            if await up.process.wait() != 0:
                result.broken.append("turnout up did not end with 0")
        finally:
            over.set()
            flowing.cancel()
            await asyncio.gather(flowing, return_exceptions=True)
            await traffic.close()
            if up.process.returncode is None:
                up.process.kill()
                await up.process.wait()
    return result


def _is_another(up: Up, name: str, old: psutil.Process) -> bool:
    found = up.children.get(name)
    return found is not None and found.pid != old.pid


async def _kill_each(up: Up, result: Result) -> None:
    for name in ("model", "hub", "router", "model", "hub", "router"):
        old = up.children[name]
        old.kill()
        await _until(partial(_is_another, up, name, old), f"another {name} runs", result)
        await asyncio.sleep(1.0)


async def _replace_all(up: Up, result: Result) -> None:
    old = up.children
    up.process.send_signal(signal.SIGHUP)
    await _until(
        lambda: all(_is_another(up, name, child) for name, child in old.items()),
        "every process is another one",
        result,
        seconds=60.0,
    )


async def _until(condition: Callable[[], bool], what: str, result: Result, seconds: float = BACK_SECONDS) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        result.broken.append(f"not within {seconds:.0f} s: {what}")


async def _killed(options: Options) -> Result:
    return await _supervised(options, "up-killed", kill=True)


async def _replaced(options: Options) -> Result:
    return await _supervised(options, "up-replaced", kill=False)


CASES = [
    Case("turnout up: everything killed", "each process is back by itself, and no record is lost", _killed),
    Case("turnout up: everything replaced", "SIGHUP replaces each process under load, and loses nothing", _replaced),
]
