"""A toggle while five routers answer calls: how long until all of them apply it, and whether any call suffers.

Hub and routers are processes of their own. Callers ask every router all the time; the strategy is toggled again and
again. A toggle takes from the operator's call until the hub has heard from all routers that they apply it. Afterwards
the ledger must hold each answered decision exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import yaml

from benchmarks.figures import Figure, Topic
from benchmarks.load import CATEGORIES, NUMBERS
from benchmarks.processes import started
from turnout.v1 import experiment_pb2, ledger_pb2, prediction_pb2

ROUTERS: Final = 5
TOGGLES: Final = 50
CALLS_PER_SECOND: Final = 40
"""At each router, evenly spaced: a call that waits does not keep the next one back."""
DEADLINE_SECONDS: Final = 0.5
NAME: Final = "dispatch"
GOAL_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 0.003
_PATIENCE_SECONDS: Final = 30.0


@dataclass(slots=True)
class Seen:
    """What callers saw."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)


class _Hub:
    """Calls to the hub."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def ask(self, service: str, method: str, request: Any, reply: Any) -> Any:
        call: Any = self._channel.unary_unary(
            f"/turnout.v1.{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        return await call(request, timeout=10.0)

    async def toggle(self, revision: int) -> int:
        """Changes the strategy; gives the new revision."""
        kinds = (
            experiment_pb2.Strategy(weighted=experiment_pb2.WeightedStrategy()),
            experiment_pb2.Strategy(round_robin=experiment_pb2.RoundRobinStrategy()),
        )
        request = experiment_pb2.SetStrategyRequest(name=NAME, base_revision=revision, strategy=kinds[revision % 2])
        reply = await self.ask("ExperimentService", "SetStrategy", request, experiment_pb2.SetStrategyResponse)
        return int(reply.experiment.revision)

    async def applied_by_all(self) -> None:
        """Waits until every router applies the newest version."""
        request = experiment_pb2.GetStatusRequest()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                status = await self.ask("ExperimentService", "GetStatus", request, experiment_pb2.GetStatusResponse)
                versions = [router.applied_version for router in status.routers if router.connected]
                if versions == [status.version] * ROUTERS:
                    return
                await asyncio.sleep(_LOOK_SECONDS)

    async def counted(self) -> int:
        """Gives the decisions in the ledger."""
        request = ledger_pb2.SummarizeArmsRequest(family="dispatch")
        return int(
            (await self.ask("LedgerService", "SummarizeArms", request, ledger_pb2.SummarizeArmsResponse)).decisions
        )


def measure(progress: Callable[[str], None], say: Callable[[str], None]) -> Iterator[Figure]:
    """Runs hub, routers and callers, and gives the two figures."""
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as name, contextlib.ExitStack() as stack:
        home = Path(name)
        path, log = home / "turnout.yaml", home / "log"
        path.write_text(yaml.safe_dump(_configuration(home), sort_keys=False))
        progress("starting the hub and five routers")
        hub = stack.enter_context(started(["-m", "services.hub", "--config", str(path)], log))
        path.write_text(yaml.safe_dump(_configuration(home, hub.address), sort_keys=False))
        routers = [
            stack.enter_context(started(["-m", "router", "--config", str(path), "--name", f"router-{number}"], log))
            for number in range(ROUTERS)
        ]
        progress(f"toggling {TOGGLES} times under load")
        seconds, seen, counted = asyncio.run(_run(hub.address, [router.address for router in routers]))
    failed = sum(seen.failed.values())
    # A call that came too late for its caller may well be in the ledger; one that was answered must be, and only once.
    wrongly_counted = max(0, seen.answered - counted) + max(0, counted - seen.answered - failed)
    say(
        f"  {TOGGLES} toggles at {ROUTERS} routers, median {sorted(seconds)[len(seconds) // 2] * 1000:.0f} ms; "
        f"{seen.answered} calls answered, {failed} failed or late {dict(seen.failed) or ''}, {counted} in the ledger"
    )
    yield Figure("toggle_p99_s", _percentile(seconds, 0.99), "s", GOAL_SECONDS)
    yield Figure("toggle_failed_calls", float(failed + wrongly_counted), "calls", 0.0)


def _configuration(home: Path, hub: str = "127.0.0.1:0") -> dict[str, Any]:
    return {
        "home": str(home),
        "router": {"grpc": "127.0.0.1:0", "metrics": "127.0.0.1:0"},
        "hub": {"grpc": hub, "metrics": "127.0.0.1:0"},
        "families": {"dispatch": {}},
        "experiments": {
            NAME: {
                "salt": "bench",
                "champion": "a",
                "strategy": {"kind": "weighted"},
                "arms": {"a": {"variant": "rules", "weight": 50}, "b": {"variant": "rules", "weight": 50}},
            }
        },
    }


async def _run(hub_address: str, routers: list[str]) -> tuple[list[float], Seen, int]:
    seen = Seen()
    stop = asyncio.Event()
    async with grpc.aio.insecure_channel(hub_address) as channel:
        hub = _Hub(channel)
        await hub.applied_by_all()
        callers = [asyncio.create_task(_calls(address, number, stop, seen)) for number, address in enumerate(routers)]
        await asyncio.sleep(1.0)
        seconds, revision = [], 1
        for _ in range(TOGGLES):
            begin = time.perf_counter()
            revision = await hub.toggle(revision)
            await hub.applied_by_all()
            seconds.append(time.perf_counter() - begin)
            await asyncio.sleep(_PAUSE_SECONDS)
        stop.set()
        await asyncio.gather(*callers)
        counted = await _settled(hub, seen.answered)
    return seconds, seen, counted


async def _settled(hub: _Hub, wanted: int) -> int:
    """Gives the decisions in the ledger once it has as many as were answered, or when it does not get them."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        counted = await hub.counted()
        if counted >= wanted or time.monotonic() > end:
            return counted
        await asyncio.sleep(0.2)


async def _calls(address: str, number: int, stop: asyncio.Event, seen: Seen) -> None:
    """Asks one router at an even pace until it is told to stop."""
    async with grpc.aio.insecure_channel(address) as channel:
        method = channel.unary_unary(
            "/turnout.v1.PredictionService/Predict",
            request_serializer=prediction_pb2.PredictRequest.SerializeToString,
            response_deserializer=prediction_pb2.PredictResponse.FromString,
        )

        async def call(unit: int) -> None:
            request = prediction_pb2.PredictRequest(
                family="dispatch", unit_id=f"unit-{number}-{unit}", numbers=NUMBERS, categories=CATEGORIES
            )
            try:
                await method(request, timeout=DEADLINE_SECONDS)
            except grpc.aio.AioRpcError as error:
                seen.failed[error.code().name] += 1
            else:
                seen.answered += 1

        under_way: set[asyncio.Task[None]] = set()
        begin, unit = time.perf_counter(), 0
        while not stop.is_set():
            await asyncio.sleep(max(0.0, begin + unit / CALLS_PER_SECOND - time.perf_counter()))
            task = asyncio.create_task(call(unit))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            unit += 1
        await asyncio.gather(*under_way)


def _percentile(values: list[float], share: float) -> float:
    """Gives the smallest value that at least that share of the values does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


TOPIC: Final = Topic(("toggle_p99_s", "toggle_failed_calls"), measure)
