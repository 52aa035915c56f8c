"""Overload: ten times what the router can answer, by real processes.

A router serves two families, each by a model server of its own: `dispatch`, which is critical, and `reports`, a family
of the same schema made for this. Their models take 2 ms a row and the router may have 16 ordinary calls under way, so
that one client process can offer ten times what these can answer. First the capacity is found: as many answers a second
as a client gets that always has 16 calls under way on its stream. Then a client process offers ten times that, one call
after the other at even distances whether answered or not, while another one makes critical calls at a low and steady
rate. Rejections are timed where the caller hears of them, whether the router or its client made them.

The same is done over unary calls by callers that heed no refusal. These figures have no goal: grpc.aio takes up unary
calls one after the other, and what waits to be taken up is out of the router's sight.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import grpc
import yaml

from benchmarks import load
from benchmarks.figures import Bound, Figure, Topic
from benchmarks.platform import prepared
from benchmarks.processes import ROOT, Process, started
from services.client import TurnoutClient
from services.runtime.errors import ResourceExhausted, TurnoutError
from services.runtime.home import Home
from turnout.v1 import prediction_pb2

NAMES: Final = (
    "overload_critical_answered_share",
    "overload_goodput_share",
    "rejection_p99_ms",
    "overload_router_growth_mb",
    "overload_unary_critical_answered_share",
    "overload_unary_goodput_share",
)
CAPACITY_SECONDS: Final = 4.0
WARM_UP_SECONDS: Final = 3.0
OVERLOAD_SECONDS: Final = 8.0
FACTOR: Final = 10
CRITICAL_A_SECOND: Final = 50
ROOM: Final = 16
_SLOW: Final = """
import sys, time
from services.model_server.engine import OnnxEngine
infer = OnnxEngine.infer
def slow(self, packed, rows):
    time.sleep(0.002 * rows)
    return infer(self, packed, rows)
OnnxEngine.infer = slow
from services.model_server.__main__ import main
sys.exit(main())
"""
DEADLINE_SECONDS: Final = 0.5
CONNECTIONS: Final = 8
MOST_UNDER_WAY: Final = 2000
FAMILY: Final = "reports"
_PACKAGE: Final = """
from dataclasses import replace
from bentos.dispatch import FAMILY as ORIGINAL
FAMILY = replace(ORIGINAL, name="reports")
"""


@dataclass
class Tally:
    """What became of calls."""

    answered: int = 0
    refused: int = 0
    failed: int = 0


def measure(progress: Callable[[str], None], say: Callable[[str], None]) -> Iterator[Figure]:
    """Measures everything; yields the figures in the order of NAMES."""
    with prepared(progress) as (home, tag), _running(home, tag) as (router, addresses):
        progress("finding the router's capacity")
        asyncio.run(_until_models_answer(addresses))
        capacity = _worker("capacity", addresses, CAPACITY_SECONDS, ROOM)["answered"] / CAPACITY_SECONDS
        unary = _worker("unary_capacity", addresses, CAPACITY_SECONDS, ROOM)["answered"] / CAPACITY_SECONDS
        before = router.resident_mb()
        progress(f"offering {FACTOR} times {capacity:.0f} calls a second")
        offered = _offer("heeding", "critical", addresses, capacity)
        growth = router.resident_mb() - before
        progress("offering without heeding refusals")
        flood = _offer("flood", "unary_critical", addresses, unary)
        for how, most, found in (("stream", capacity, offered), ("unary, heeding nothing", unary, flood)):
            say(
                f"overload ({how}): capacity {most:.0f}/s; {found['offered_a_second']:.0f}/s "
                f"offered, {found.get('reached_a_second', found['offered_a_second']):.0f}/s reached the router, "
                f"{found['answered_a_second']:.0f}/s answered, {found['refused_a_second']:.0f}/s refused "
                f"(median {found['rejection_p50_ms']:.2f} ms), {found['failed_a_second']:.0f}/s failed"
            )
        yield Figure(NAMES[0], offered["critical_answered_share"], "1", 1.0, Bound.AT_LEAST)
        yield Figure(NAMES[1], offered["answered_a_second"] / capacity, "1", 0.95, Bound.AT_LEAST)
        yield Figure(NAMES[2], offered["rejection_p99_ms"], "ms", 5.0)
        yield Figure(NAMES[3], growth, "MB", 50.0)
        yield Figure(NAMES[4], flood["critical_answered_share"], "1", None)
        yield Figure(NAMES[5], flood["answered_a_second"] / unary, "1", None)


TOPIC: Final = Topic(NAMES, measure)


def _offer(kind: str, beside: str, address: str, capacity: float) -> dict[str, float]:
    """Runs the overload and the critical calls beside it, each in a process of its own."""
    with subprocess.Popen(_command(beside, address, WARM_UP_SECONDS + OVERLOAD_SECONDS, 0), **_PIPED) as critical:
        found = _worker(kind, address, OVERLOAD_SECONDS, capacity * FACTOR)
        tally = json.loads(critical.communicate(timeout=60)[0])
    made = tally["answered"] + tally["failed"]
    return {**found, "critical_answered_share": tally["answered"] / made}


_PIPED: Final[dict[str, Any]] = {"stdout": subprocess.PIPE, "cwd": ROOT, "text": True}


def _command(kind: str, address: str, seconds: float, rate: float) -> list[str]:
    return [sys.executable, "-m", "benchmarks.overload", kind, address, str(seconds), str(rate)]


def _worker(kind: str, address: str, seconds: float, rate: float) -> dict[str, float]:
    done = subprocess.run(_command(kind, address, seconds, rate), check=True, timeout=120, **_PIPED)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def _running(home: Home, tag: str) -> Iterator[tuple[Process, str]]:
    """Runs two model servers and the router; gives the router and its address."""
    with tempfile.TemporaryDirectory(prefix="turnout-family-") as folder, contextlib.ExitStack() as stack:
        package = Path(folder) / FAMILY
        package.mkdir()
        (package / "__init__.py").write_text(_PACKAGE)
        tags = {"dispatch": tag, FAMILY: _copied(home, tag)}
        path = home.root / "overload.yaml"
        path.write_text(yaml.safe_dump(_config(home, tags), sort_keys=False))
        log = home.root / "overload.log"
        for family, bento in tags.items():
            socket = home.variant_socket(family, "xgboost")
            server = ["-c", _SLOW, "--bento", str(home.bento(bento)), "--listen", socket]
            stack.enter_context(started([*server, "--metrics", "127.0.0.1:0"], log))
        code = f"import bentos; bentos.__path__.append({folder!r}); from router.__main__ import main; main()"
        router = stack.enter_context(started(["-c", code, "--config", str(path)], log))
        yield router, router.address


def _copied(home: Home, tag: str) -> str:
    """Gives the tag of a copy of a bento that serves the other family."""
    name, _, version = tag.partition(":")
    copy = f"{name.replace('dispatch', FAMILY)}:{version}"
    shutil.copytree(home.bento(tag), home.bento(copy))
    bento = home.bento(copy) / "bento.yaml"
    bento.write_text(bento.read_text().replace(name, copy.partition(":")[0]))
    for manifest in home.bento(copy).rglob("turnout.json"):
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "family": FAMILY}))
    return copy


def _config(home: Home, tags: dict[str, str]) -> dict[str, object]:
    arms = {"rules": {"variant": "rules", "weight": 0}, "xgboost": {"variant": "xgboost", "weight": 1}}
    experiment = {"salt": "bench", "champion": "xgboost", "strategy": {"kind": "weighted"}, "arms": arms}
    return {
        "home": str(home.root),
        "router": {"grpc": "127.0.0.1:0", "metrics": "127.0.0.1:0", "max_concurrent_calls": ROOM},
        "hub": {"grpc": home.socket("no-hub")},
        "families": {
            family: {"critical": family == "dispatch", "variants": {"xgboost": {"bento": bento}}}
            for family, bento in tags.items()
        },
        "experiments": dict.fromkeys(tags, experiment),
    }


async def _until_models_answer(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(20):
        for family in ("dispatch", FAMILY):
            while True:
                if (await _predict(channel, family, 0)).served_variant != "rules":
                    break
                await asyncio.sleep(0.05)


async def _predict(channel: grpc.aio.Channel, family: str, number: int) -> prediction_pb2.PredictResponse:
    method = channel.unary_unary(
        "/turnout.v1.PredictionService/Predict",
        request_serializer=prediction_pb2.PredictRequest.SerializeToString,
        response_deserializer=prediction_pb2.PredictResponse.FromString,
    )
    request = prediction_pb2.PredictRequest(
        family=family, unit_id=f"unit-{number}", numbers=load.NUMBERS, categories=load.CATEGORIES
    )
    answer: prediction_pb2.PredictResponse = await method(request, timeout=DEADLINE_SECONDS)
    return answer


async def _capacity(address: str, seconds: float, callers: float) -> dict[str, float]:
    """Counts the answers of callers on one stream that never pause, after a second of warming up."""
    return await _most(address, seconds, callers, "stream")


async def _unary_capacity(address: str, seconds: float, callers: float) -> dict[str, float]:
    """The same over unary calls."""
    return await _most(address, seconds, callers, "unary")


async def _most(
    address: str, seconds: float, callers: float, transport: Literal["stream", "unary"]
) -> dict[str, float]:
    tally = Tally()
    begin = time.perf_counter() + 1.0
    async with TurnoutClient(address, fallback=False, transport=transport) as client:

        async def caller() -> None:
            while time.perf_counter() < begin + seconds:
                try:
                    await client.predict(FAMILY, load.ROW, timeout=5.0)
                    tally.answered += time.perf_counter() >= begin
                except ResourceExhausted as refused:
                    await asyncio.sleep(refused.retry_after)

        await asyncio.gather(*(caller() for _ in range(int(callers))))
    return {"answered": tally.answered}


async def _critical(address: str, seconds: float, _: float) -> dict[str, float]:
    """Makes critical calls over a stream."""
    async with TurnoutClient(address, fallback=False) as client:
        await client.ready(5)
        return await _steadily(lambda _: client.predict("dispatch", load.ROW, timeout=DEADLINE_SECONDS), seconds)


async def _unary_critical(address: str, seconds: float, _: float) -> dict[str, float]:
    """Makes critical unary calls."""
    async with grpc.aio.insecure_channel(address) as channel:
        return await _steadily(lambda number: _predict(channel, "dispatch", number), seconds)


async def _steadily(call: Callable[[int], Awaitable[object]], seconds: float) -> dict[str, float]:
    """Makes calls at an even rate; each either has its answer inside its deadline or counts as failed."""
    tally = Tally()

    async def one(number: int) -> None:
        try:
            await call(number)
            tally.answered += 1
        except (TurnoutError, grpc.aio.AioRpcError):
            tally.failed += 1

    async with asyncio.TaskGroup() as group:
        begin = time.perf_counter()
        for number in range(int(seconds * CRITICAL_A_SECOND)):
            await asyncio.sleep(max(begin + number / CRITICAL_A_SECOND - time.perf_counter(), 0))
            group.create_task(one(number))
    return {"answered": tally.answered, "failed": tally.failed}


class _Offering:
    """Offers calls at a rate whether they are answered or not; counts those that began after the warming up."""

    def __init__(self, call: Callable[[int], Awaitable[object]], rate: float) -> None:
        self._call = call
        self._rate = rate
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts_from = time.perf_counter() + WARM_UP_SECONDS
        self.tally = Tally()
        self.made = 0
        self.rejections_ms: list[float] = []

    async def run(self, seconds: float, at_begin: Callable[[], None]) -> None:
        """Offers for so long after the warming up, whose end `at_begin` hears of."""
        start, number, counting = time.perf_counter(), 0, False
        while (now := time.perf_counter()) < self._counts_from + seconds:
            if not counting and now >= self._counts_from:
                counting = True
                at_begin()
            due = int((now - start) * self._rate)
            # What this process cannot offer in time is not offered later.
            for _ in range(min(due - number, 200, MOST_UNDER_WAY - len(self._tasks))):
                self.made += counting
                task = asyncio.create_task(self._one(number))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            number = due
            await asyncio.sleep(0.001)
        await asyncio.gather(*self._tasks)

    async def _one(self, number: int) -> None:
        begin = time.perf_counter()
        try:
            await self._call(number)
            outcome = "answered"
        except (TurnoutError, grpc.aio.AioRpcError) as error:
            code = error.code if isinstance(error, TurnoutError) else error.code().value[0]
            outcome = "refused" if code == ResourceExhausted.code else "failed"
        if begin >= self._counts_from:
            setattr(self.tally, outcome, getattr(self.tally, outcome) + 1)
            if outcome == "refused":
                self.rejections_ms.append((time.perf_counter() - begin) * 1000)

    def found(self, seconds: float) -> dict[str, float]:
        """Gives the figures."""
        centiles = statistics.quantiles(self.rejections_ms, n=100) if len(self.rejections_ms) > 1 else [0.0] * 99
        return {
            "offered_a_second": self.made / seconds,
            "answered_a_second": self.tally.answered / seconds,
            "refused_a_second": self.tally.refused / seconds,
            "failed_a_second": self.tally.failed / seconds,
            "rejection_p50_ms": centiles[49],
            "rejection_p99_ms": centiles[98],
        }


async def _heeding(address: str, seconds: float, rate: float) -> dict[str, float]:
    """Offers through the client, which refuses calls itself while the router refuses most."""
    reached = [0]
    async with TurnoutClient(address, fallback=False) as client:
        await client.ready(5)
        offering = _Offering(lambda _: client.predict(FAMILY, load.ROW, timeout=DEADLINE_SECONDS), rate)
        await offering.run(seconds, lambda: reached.append(_reached(client)))
        return {**offering.found(seconds), "reached_a_second": (_reached(client) - reached[-1]) / seconds}


async def _flood(address: str, seconds: float, rate: float) -> dict[str, float]:
    """Offers over plain connections and heeds nothing."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            for _ in range(CONNECTIONS)
        ]
        offering = _Offering(lambda number: _predict(channels[number % CONNECTIONS], FAMILY, number), rate)
        await offering.run(seconds, lambda: None)
    return offering.found(seconds)


def _reached(client: TurnoutClient) -> int:
    now = client.statistics
    return now.answered_by_router + now.refused_by_router


_KINDS: Final = {
    "capacity": _capacity,
    "unary_capacity": _unary_capacity,
    "critical": _critical,
    "unary_critical": _unary_critical,
    "heeding": _heeding,
    "flood": _flood,
}

if __name__ == "__main__":
    kind, where, seconds, rate = sys.argv[1:]
    print(json.dumps(asyncio.run(_KINDS[kind](where, float(seconds), float(rate)))))
