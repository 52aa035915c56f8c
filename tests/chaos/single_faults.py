"""One fault behind the router at a time: no caller loses its answer, the ledger no record, and the model comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from tests.chaos.books import compare, router_numbers
from tests.chaos.case import Case, Options, Result
from tests.chaos.proxy import Fault
from tests.chaos.stage import Stage, staged
from tests.chaos.traffic import Traffic, Watch

Act = Callable[[Stage], Awaitable[object]]
BEGIN, END = 0.2, 0.6
"""Shares of the calls at which a fault begins and ends."""
BACK_SECONDS = 2.0
OPEN_SECONDS = 1.0
"""By when a breaker is open that is not opened by five failures in a row."""
PROMISE = "every call is answered in time, every answer is in the ledger once, and the model is back within 2 s"


async def under_fault(
    options: Options, name: str, begin: Act, end: Act, *, double: bool = False, back: bool = True
) -> Result:
    """Runs traffic with a fault in the middle of it and keeps the books."""
    result = Result()
    async with staged(options.seed, double=double) as stage:
        await settled(stage)
        traffic, watch, healed = Traffic(name), Watch(stage.echo.addresses["grpc"], stage.router_pids), [0.0]
        broke = [0.0]

        async def break_it() -> None:
            broke[0] = time.monotonic()
            await begin(stage)

        async def heal() -> None:
            await end(stage)
            healed[0] = time.monotonic()

        try:
            async with watch.watching():
                at = {BEGIN: break_it, END: heal}
                await traffic.run(stage.addresses, options.calls, options.rate, at=at)
                if back:
                    await _until_back(stage, traffic, healed[0], result, options.rate)
            result.take(traffic, watch)
            # Where no link was open, no breaker had anything to do at first.
            opened = next((at for at in traffic.shut if at >= broke[0]), None)
            if opened is not None and not traffic.fallbacks["UNAVAILABLE"]:
                seconds = opened - broke[0]
                result.notes.append(f"breaker open after {seconds:.2f} s")
                if seconds - watch.stalled(broke[0], opened) > OPEN_SECONDS:
                    result.broken.append(f"the breaker opened only after {seconds:.1f} s")
            await close_books(stage, traffic, result)
        finally:
            await traffic.close()
    return result


async def settled(stage: Stage) -> None:
    """Waits until the model answers."""
    warming = Traffic("warming")
    try:
        async with asyncio.timeout(30):
            while not warming.by_model:
                await warming.run(stage.addresses, 1, 100)
                await asyncio.sleep(0.05)
    finally:
        await warming.close()


async def _until_back(stage: Stage, traffic: Traffic, healed: float, result: Result, rate: float) -> None:
    while not any(at > healed for at in traffic.by_model) and time.monotonic() < healed + 15:
        await traffic.run(stage.addresses, 5, rate)
    after = next((at - healed for at in traffic.by_model if at > healed), None)
    if after is None:
        result.broken.append("the model did not answer within 15 s of its recovery")
        return
    result.notes.append(f"back after {after:.2f} s")
    if after > BACK_SECONDS:
        result.broken.append(f"the model was back only {after:.1f} s after its recovery")


async def close_books(stage: Stage, traffic: Traffic, result: Result) -> None:
    """Compares callers, routers and ledger."""
    result.book(await compare(stage.hub_address, traffic.prefix, traffic.answered))
    numbers = await router_numbers(router.addresses["metrics"] for router in stage.routers)
    if not numbers.balanced or numbers.pending or numbers.set_aside:
        result.broken.append(f"the routers' numbers: {numbers}; {why_set_aside(stage)}")


def why_set_aside(stage: Stage) -> str:
    """Gives the reasons of ledger and routers, each with its number."""
    reasons: Counter[str] = Counter()
    with contextlib.closing(sqlite3.connect(stage.home.ledger)) as ledger, contextlib.suppress(sqlite3.Error):
        reasons.update(reason for (reason,) in ledger.execute("SELECT reason FROM set_aside"))
    for path in stage.root.glob("journal/*/rejects/rejects.jsonl"):
        reasons.update(json.loads(line)["reason"] for line in path.read_text().splitlines())
    return ", ".join(f"{count} × {reason}" for reason, count in reasons.items())


def _network(fault: Fault) -> Case:
    async def run(options: Options) -> Result:
        return await under_fault(
            options, fault.name.lower(), lambda s: s.proxy.set(fault), lambda s: s.proxy.set(Fault.NONE)
        )

    return Case(f"network: {fault.value}", PROMISE, run, short=fault is Fault.RESET)


async def _say(stage: Stage, word: str) -> None:
    stage.script.write_text(word)


async def _kill_hung(stage: Stage) -> None:
    """What a supervisor does with a process that a probe gave up."""
    await stage.model.kill()
    await _say(stage, "well")
    await stage.model.start()


def _model(word: str, title: str) -> Case:
    async def run(options: Options) -> Result:
        end: Act = _kill_hung if word == "hang" else partial(_say, word="well")
        return await under_fault(options, f"model-{word}", partial(_say, word=word), end, double=True)

    return Case(f"model: {title}", PROMISE, run, short=word == "nan")


async def _control(options: Options) -> Result:
    async def nothing(_: Stage) -> None:
        pass

    return await under_fault(options, "control", nothing, nothing)


async def _signal(stage: Stage, part: str, number: signal.Signals) -> None:
    getattr(stage, part).signal(number)


def _stopped(part: str) -> Case:
    async def run(options: Options) -> Result:
        return await under_fault(
            options,
            f"stop-{part}",
            partial(_signal, part=part, number=signal.SIGSTOP),
            partial(_signal, part=part, number=signal.SIGCONT),
        )

    return Case(f"SIGSTOP: {part}", PROMISE, run)


def _killed(part: str) -> Case:
    async def run(options: Options) -> Result:
        async def kill(stage: Stage) -> None:
            await getattr(stage, part).kill()

        async def start(stage: Stage) -> None:
            await getattr(stage, part).start()

        return await under_fault(options, f"kill-{part}", kill, start)

    return Case(f"SIGKILL: {part}", PROMISE, run, short=part == "model")


CASES = [
    Case("control", "without a fault every call is answered in time by the model", _control, short=True),
    *(_network(fault) for fault in Fault if fault is not Fault.NONE),
    _model("hang", "hangs the interpreter"),
    _model("leak", "leaks memory"),
    _model("raise", "raises"),
    _model("nan", "answers NaN"),
    _model("wrong", "answers 1.7"),
    _model("shape", "answers too few values"),
    _model("slow", "answers 400 ms late"),
    _model("silent", "never answers"),
    _model("row", "fails on one kind of row"),
    *(_stopped(part) for part in ("model", "hub")),
    *(_killed(part) for part in ("model", "hub")),
]
