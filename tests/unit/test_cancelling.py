"""Loops that outlive every error still end when they are asked to, even if a library drops the cancellation."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from monitoring.cycle.running import Cycle, cycling
from monitoring.ledger.keeping_up import keeping_up
from router import config_watch
from router.alert_watch import AlertWatch
from router.experiment_watch import ExperimentWatch
from router.resilience.standing_alerts import StandingAlerts
from turnout.v1 import experiment_pb2


class _Call:
    """A stream that turns the cancellation of whoever reads it into an error of its own."""

    def __init__(self, reading: asyncio.Event) -> None:
        self._reading = reading

    async def write(self, message: object) -> None:
        assert message is not None

    async def read(self) -> None:
        self._reading.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("broken") from None

    def cancel(self) -> None:
        pass


class _Channel:
    """Opens such streams."""

    def __init__(self) -> None:
        self.reading = asyncio.Event()

    def stream_stream(self, *_: Any, **__: Any) -> Any:
        return lambda *_, **__: _Call(self.reading)

    unary_stream = stream_stream


class _Applier:
    """Applies nothing."""

    configurations = 0
    version = 0
    origin = ""

    def ready(self) -> frozenset[tuple[str, str]]:
        return frozenset()

    async def apply_set(self, message: experiment_pb2.ExperimentSet, *, patience_seconds: float = 0.0) -> str:
        raise AssertionError((message, patience_seconds))


@pytest.mark.parametrize("kind", ["experiments", "alerts"])
async def test_a_dropped_cancellation_ends_the_loop_all_the_same(kind: str) -> None:
    """Once, not twice, is a task to be cancelled."""
    channel: Any = _Channel()
    watch: ExperimentWatch | AlertWatch
    if kind == "experiments":
        watch = ExperimentWatch(channel, _Applier(), router="r", token=None, jitter=lambda: 0.0, monotonic=lambda: 0.0)
    else:
        watch = AlertWatch(channel, StandingAlerts(), wanted=lambda: True, token=None, jitter=lambda: 0.0)
    task = asyncio.create_task(watch.run())
    await channel.reading.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=10)
    assert done == {task}


class _Dropping:
    """Work that turns the first cancellation of whoever waits for it into an error of its own."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.dropped = False

    async def upkeep(self) -> Any:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self.dropped:
                raise
            self.dropped = True
            raise ConnectionError("broken") from None

    once = upkeep


async def _ends(block: contextlib.AbstractAsyncContextManager[object], work: _Dropping) -> bool:
    """Whether a block ends that is left in the middle of work."""

    async def left() -> None:
        async with block:
            await work.begun.wait()

    with structlog.testing.capture_logs():
        done, _ = await asyncio.wait([asyncio.create_task(left())], timeout=10)
    return bool(done) and work.dropped


async def test_upkeep_ends_with_its_block() -> None:
    """A hub that stops waits for no second cancellation of the ledger's upkeep."""
    store: Any = _Dropping()
    assert await _ends(keeping_up(store, pause_seconds=0.0), store)


async def test_check_cycle_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor for one of the check cycle."""
    work = _Dropping()
    given: Any = SimpleNamespace(engine=None, settings=SimpleNamespace(current=SimpleNamespace(cycle_seconds=0.0)))
    nothing: Any = None
    cycle = Cycle(
        nothing,
        given,
        nothing,
        families=lambda _: None,
        platform=lambda: nothing,
        metrics=nothing,
        now_us=lambda: 0,
        clock=lambda: 0.0,
    )
    monkeypatch.setattr(cycle, "once", work.once)
    assert await _ends(cycling(cycle), work)


async def test_following_of_a_file_ends(tmp_path: Path) -> None:
    """Nor does a router for one of what follows turnout.yaml, in the middle of a change."""
    work = _Dropping()
    path = tmp_path / "turnout.yaml"
    path.write_text("families: {}\n")
    with structlog.testing.capture_logs():
        task = asyncio.create_task(config_watch.watch(path, None, lambda _: work.upkeep(), lambda: None))
        await work.begun.wait()
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=10)
    assert done == {task}
