"""Figures of the serving path: CPU and latency against a bare echo server, in one alternating run."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc

from benchmarks import load, peers
from benchmarks.figures import Figure
from benchmarks.platform import Platform, prepared, running
from benchmarks.processes import Process
from services.client import TurnoutClient

ROUNDS = 9
CALLS = 800
CALLERS = 32
BATCHES = 10
"""Batches of 64 that each caller sends in a round."""
LATENCY_ROUNDS = 9
LATENCY_CALLS = 500

NAMES = (
    "unary_cpu_ratio",
    "stream_cpu_ratio",
    "batch64_row_cpu_ratio",
    "batch64_row_cpu_ratio_2_callers",
    "unary_p99_ratio",
    "model_server_ready_s",
    "model_server_rss_mb",
    "router_ready_s",
    "router_rss_mb",
)


@dataclass(frozen=True)
class _Load:
    """A way to call, the processes whose CPU it costs, answers a call, and callers at once."""

    call: load.Call
    processes: Sequence[Process]
    answers: int = 1
    callers: int = CALLERS

    async def cpu(self, calls: int) -> float:
        """Gives the CPU seconds that an answer cost the servers."""
        before = sum(process.cpu_seconds() for process in self.processes)
        await load.drive(self.call, calls=calls, callers=self.callers)
        return (sum(process.cpu_seconds() for process in self.processes) - before) / (calls * self.answers)


def measure(progress: Callable[[str], None], say: Callable[[str], None]) -> Iterator[Figure]:
    """Measures everything; yields the figures in the order of NAMES."""
    with (
        prepared(progress) as (home, tag),
        running(home, tag) as platform,
        peers.running(home.bento(tag), home.root / "log", progress, say) as beside,
    ):
        progress("measuring CPU and latency against the echo server")
        yield from asyncio.run(_serving(platform, beside, progress))
        yield Figure("model_server_ready_s", platform.model_server.ready_seconds, "s", 2.0)
        yield Figure("model_server_rss_mb", platform.model_server.resident_mb(), "MB", 150.0)
        yield Figure("router_ready_s", platform.router.ready_seconds, "s", 1.0)
        yield Figure("router_rss_mb", platform.router.resident_mb(), "MB", 100.0)


async def _serving(platform: Platform, beside: dict[str, peers.Peer], progress: Callable[[str], None]) -> list[Figure]:
    ours = (platform.router, platform.model_server)
    async with (
        grpc.aio.insecure_channel(platform.echo.address) as echo_channel,
        grpc.aio.insecure_channel(platform.router.address) as channel,
        TurnoutClient(platform.router.address, fallback=False) as client,
        peers.called(beside) as infer,
    ):
        loads = {
            "echo": _Load(load.echo(echo_channel), (platform.echo,)),
            "unary": _Load(load.unary(channel), ours),
            "stream": _Load(load.stream(client), ours),
            "batch": _Load(load.batch(channel), ours, load.BATCH_ROWS),
            "batch_2_callers": _Load(load.batch(channel), ours, load.BATCH_ROWS, callers=2),
            **{f"{name}_unary": _Load(infer[name], (peer.process,)) for name, peer in beside.items()},
        }
        await _until_the_model_answers(loads["unary"].call)
        for one in loads.values():
            await one.cpu(100)
        cpu = await _alternating_cpu(loads, progress)
        figures = [
            Figure("unary_cpu_ratio", _ratio(cpu["unary"], cpu["echo"]), "x", 2.5),
            Figure("stream_cpu_ratio", _ratio(cpu["stream"], cpu["echo"]), "x", 1.0),
            Figure("batch64_row_cpu_ratio", _ratio(cpu["batch"], cpu["echo"]), "x", 0.1),
            Figure("batch64_row_cpu_ratio_2_callers", _ratio(cpu["batch_2_callers"], cpu["echo"]), "x", None),
            Figure("unary_p99_ratio", await _p99_ratio(loads, progress), "x", 3.0),
        ]
        figures += peers.figures({name: _ratio(cpu[f"{name}_unary"], cpu["echo"]) for name in beside})
        figures += [
            Figure(f"{name}_cpu_us", statistics.median(values) * 1e6, "us", None) for name, values in cpu.items()
        ]
    return figures


async def _alternating_cpu(loads: dict[str, _Load], progress: Callable[[str], None]) -> dict[str, list[float]]:
    """Runs every load once a round, so that the machine's moods meet all of them alike."""
    cpu: dict[str, list[float]] = {name: [] for name in loads}
    for round_number in range(ROUNDS):
        progress(f"CPU, round {round_number + 1} of {ROUNDS}")
        for name, one in loads.items():
            cpu[name].append(await one.cpu(CALLS if one.answers == 1 else BATCHES * one.callers))
    return cpu


async def _p99_ratio(loads: dict[str, _Load], progress: Callable[[str], None]) -> float:
    """The 99th percentile at one caller, ours over echo's: median of the rounds' ratios."""
    ratios = []
    for round_number in range(LATENCY_ROUNDS):
        progress(f"latency, round {round_number + 1} of {LATENCY_ROUNDS}")
        p99 = {
            name: statistics.quantiles(await load.drive(loads[name].call, calls=LATENCY_CALLS, callers=1), n=100)[98]
            for name in ("echo", "unary")
        }
        ratios.append(p99["unary"] / p99["echo"])
    return statistics.median(ratios)


def _ratio(ours: Sequence[float], echo: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, echo, strict=True))


async def _until_the_model_answers(call: load.Call) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await call(0)
            except RuntimeError:
                await asyncio.sleep(0.05)
            else:
                return
