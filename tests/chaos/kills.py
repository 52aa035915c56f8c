"""kill -9 of router and hub, hundreds of times under load: whoever was answered is in the ledger, once."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.chaos.case import Case, Options, Result
from tests.chaos.processes import Process
from tests.chaos.single_faults import close_books, settled
from tests.chaos.stage import Stage, router_process, staged
from tests.chaos.traffic import Traffic, Watch

KILL_RATE = 60.0
"""Calls a second while processes are killed: each start costs a core's second."""


async def _under_load(
    options: Options, name: str, disturb: Callable[[Stage, Result], Awaitable[None]], *, routers: int = 1
) -> Result:
    """Runs traffic that tries again, until the disturbance is over; then keeps the books."""
    result = Result()
    async with staged(options.seed, routers=routers) as stage:
        await settled(stage)
        traffic, watch = Traffic(name), Watch(stage.echo.addresses["grpc"], stage.router_pids)
        over = asyncio.Event()

        async def flow() -> None:
            while not over.is_set():
                await traffic.run(stage.addresses, 60, KILL_RATE, retry=True)

        flowing = asyncio.create_task(flow())
        try:
            async with watch.watching():
                await disturb(stage, result)
                over.set()
                await flowing
            result.take(traffic, watch, in_time=False)
            await close_books(stage, traffic, result)
        finally:
            over.set()
            flowing.cancel()
            await asyncio.gather(flowing, return_exceptions=True)
            await traffic.close()
    return result


async def _kill_again_and_again(process: Process, options: Options, stage: Stage, result: Result) -> None:
    began = time.monotonic()
    for _ in range(options.kills):
        await asyncio.sleep(stage.chance.uniform(0.0, 0.3))
        await process.kill()
        await process.start()
    result.notes.append(f"{options.kills} kills in {time.monotonic() - began:.0f} s")


async def _router(options: Options) -> Result:
    return await _under_load(
        options, "kill-router", lambda stage, result: _kill_again_and_again(stage.router, options, stage, result)
    )


async def _hub(options: Options) -> Result:
    return await _under_load(
        options, "kill-hubs", lambda stage, result: _kill_again_and_again(stage.hub, options, stage, result)
    )


async def _everything(options: Options) -> Result:
    """Two routers, hub and model server, in random order, several at once."""

    async def disturb(stage: Stage, result: Result) -> None:
        async def again(process: Process, times: int) -> None:
            for _ in range(times):
                await asyncio.sleep(stage.chance.uniform(0.0, 1.0))
                await process.kill()
                await process.start()

        times = max(1, min(options.kills, 100) // 4)
        await asyncio.gather(*(again(one, times) for one in (stage.hub, stage.model, *stage.routers)))
        result.notes.append(f"{4 * times} kills")

    return await _under_load(options, "kill-all", disturb, routers=2)


async def _stopped_router(options: Options) -> Result:
    async def disturb(stage: Stage, _: Result) -> None:
        for _number in range(3):
            stage.router.signal(signal.SIGSTOP)
            await asyncio.sleep(1.0)
            stage.router.signal(signal.SIGCONT)
            await asyncio.sleep(1.0)

    return await _under_load(options, "stop-router", disturb)


async def _rolling(options: Options) -> Result:
    """SIGTERM and a new process, for one after the other, with two routers."""

    async def disturb(stage: Stage, result: Result) -> None:
        for process in (stage.model, stage.hub, *stage.routers):
            code = await process.stop()
            if code != 0:
                result.broken.append(f"a process ended with {code} when it was asked to stop")
            await process.start()
            await asyncio.sleep(0.5)

    return await _under_load(options, "rolling", disturb, routers=2)


async def _router_alone(options: Options) -> Result:
    """A router starts and answers with nothing else there, with a journal that nobody takes."""
    result = Result()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        async with staged(options.seed, root=Path(folder)) as stage:
            await stage.hub.kill()
            await stage.model.kill()
            await stage.router.kill()
            alone = router_process(stage.config_path, stage.root, "router-1")
            stage.routers[0] = alone
            traffic, watch = Traffic("alone"), Watch(stage.echo.addresses["grpc"], stage.router_pids)
            try:
                await alone.start()
                async with watch.watching():
                    await traffic.run(stage.addresses, options.calls, options.rate)
                    await stage.hub.start()
                result.take(traffic, watch)
                await close_books(stage, traffic, result)
            finally:
                await traffic.close()
                await alone.kill()
    return result


PROMISE = "every answered call is in the ledger exactly once, whoever is killed and however often"
CASES = [
    Case("kill -9: router", PROMISE, _router, short=True),
    Case("kill -9: hub", PROMISE, _hub),
    Case("kill -9: everything at random", PROMISE, _everything),
    Case("SIGSTOP: router", "calls to a router that stood still are answered late, and none is lost", _stopped_router),
    Case("rolling replacement", "with two routers, replacing every process loses no call and no record", _rolling),
    Case(
        "router alone",
        "a router starts without anybody, answers by the rules, and ships when a hub comes",
        _router_alone,
    ),
]
