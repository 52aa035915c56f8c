"""Models are swapped under load: every swap is a change of turnout.yaml, as `turnout models promote` makes one."""

from __future__ import annotations

import asyncio
import time
import urllib.request

from tests.chaos.case import Case, Options, Result
from tests.chaos.processes import Process
from tests.chaos.single_faults import close_books, settled
from tests.chaos.stage import FAMILY, VARIANT, Stage, staged, write_bento
from tests.chaos.traffic import Traffic, Watch

APPLIED_SECONDS = 10.0


async def _swaps(options: Options) -> Result:
    result = Result()
    async with staged(options.seed) as stage:
        second = _second(stage, options.seed + 1)
        await second.start()
        try:
            await settled(stage)
            await _under_load(stage, options, result)
        finally:
            await second.kill()
    return result


def _second(stage: Stage, seed: int) -> Process:
    tag = write_bento(stage.home, "v2", seed)
    arguments = ("--bento", str(stage.home.bento(tag)), "--listen", stage.home.socket("second"))
    return Process("services.model_server", (*arguments, "--metrics", "127.0.0.1:0"), stage.root / "second.log")


async def _under_load(stage: Stage, options: Options, result: Result) -> None:
    traffic, watch, over = Traffic("swaps"), Watch(stage.echo.addresses["grpc"], stage.router_pids), asyncio.Event()

    async def flow() -> None:
        while not over.is_set():
            await traffic.run(stage.addresses, 50, 200.0)

    flowing = asyncio.create_task(flow())
    began = time.monotonic()
    try:
        async with watch.watching():
            for swap in range(options.swaps):
                await _swap(stage, swap)
            over.set()
            await flowing
        result.take(traffic, watch)
        result.notes.append(f"{options.swaps} swaps in {time.monotonic() - began:.0f} s")
        by_rules = traffic.served["rules"]
        if by_rules:
            result.broken.append(f"{by_rules} calls were answered by the rules while a model was there")
        await close_books(stage, traffic, result)
    finally:
        over.set()
        flowing.cancel()
        await asyncio.gather(flowing, return_exceptions=True)
        await traffic.close()


async def _swap(stage: Stage, number: int) -> None:
    before = await asyncio.to_thread(_applied, stage)
    address = stage.home.socket("second" if number % 2 == 0 else "proxy")
    stage.config["families"][FAMILY]["variants"][VARIANT]["addresses"] = [address]
    stage.write_config()
    async with asyncio.timeout(APPLIED_SECONDS):
        while await asyncio.to_thread(_applied, stage) == before:
            await asyncio.sleep(0.02)


def _applied(stage: Stage) -> float:
    with urllib.request.urlopen(f"http://{stage.router.addresses['metrics']}/metrics", timeout=5) as answer:
        text = bytes(answer.read()).decode()
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("turnout_configuration_loads_total") and 'result="applied"' in line
    )


CASES = [Case("model swaps", "swaps under load cost no call its answer, nor the model's answer", _swaps)]
