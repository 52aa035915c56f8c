"""Loops that outlive every error still end when they are asked to, even if a library drops the cancellation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

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
