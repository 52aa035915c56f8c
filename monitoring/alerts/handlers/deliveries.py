"""All handlers as the settings name them now: workers begin, end, and are replaced as the settings change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, assert_never

from monitoring.alerts.engine import AlertEngine
from monitoring.alerts.handlers.alertmanager import Alertmanager
from monitoring.alerts.handlers.email import Email
from monitoring.alerts.handlers.handler import Handler
from monitoring.alerts.handlers.log import Log
from monitoring.alerts.handlers.python_callable import PythonCallable
from monitoring.alerts.handlers.webhook import Webhook
from monitoring.alerts.handlers.worker import Worker
from monitoring.alerts.kinds import Severity
from monitoring.alerts.metrics import AlertMetrics
from monitoring.alerts.telling import Audience
from services.runtime.monitoring_config import (
    AlertHandler,
    AlertmanagerHandler,
    EmailHandler,
    LogHandler,
    PythonHandler,
    WebhookHandler,
)

_SPARE_SECONDS: Final = 1.0
"""A handler ends its attempt itself; the worker's own limit is for one that does not."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a handler does."""

    name: str
    kind: str
    worker: Worker


@dataclass(frozen=True, slots=True)
class _Running:
    config: AlertHandler
    worker: Worker
    task: asyncio.Task[None]


class Deliveries:
    """The workers of all handlers.

    Args:
        engine: knows what is due.
        metrics: what Prometheus is told.
        clock: rising seconds.
        now_us: microseconds since 1970-01-01T00:00Z.
        chance: a number in [0, 1), to spread attempts.
    """

    def __init__(
        self,
        engine: AlertEngine,
        *,
        metrics: AlertMetrics,
        clock: Callable[[], float],
        now_us: Callable[[], int],
        chance: Callable[[], float],
    ) -> None:
        self._engine, self._metrics = engine, metrics
        self._clock, self._now_us, self._chance = clock, now_us, chance
        self._running: dict[str, _Running] = {}

    async def configure(self, handlers: Mapping[str, AlertHandler]) -> None:
        """Makes the workers those of the settings; one whose settings are the same goes on undisturbed."""
        self._engine.set_audiences({name: audience_of(config) for name, config in handlers.items()})
        gone = [name for name, running in self._running.items() if handlers.get(name) != running.config]
        for name in gone:
            await self._end(self._running.pop(name))
            if name not in handlers:
                self._metrics.forget(name)
        for name, config in handlers.items():
            if name not in self._running:
                self._running[name] = self._begin(name, config)

    def status(self) -> list[Status]:
        """Gives how each handler does, by name."""
        return [Status(name, kind_of(one.config), one.worker) for name, one in sorted(self._running.items())]

    async def close(self) -> None:
        """Ends all workers; what they have not delivered is due again at the next start."""
        for running in self._running.values():
            running.task.cancel()
        for running in self._running.values():
            await self._end(running)
        self._running.clear()

    def _begin(self, name: str, config: AlertHandler) -> _Running:
        worker = Worker(
            name,
            make(config, now_us=self._now_us),
            self._engine,
            attempt_seconds=config.timeout_seconds + _SPARE_SECONDS,
            give_up_seconds=config.give_up_seconds,
            metrics=self._metrics,
            clock=self._clock,
            now_us=self._now_us,
            chance=self._chance,
        )
        return _Running(config, worker, asyncio.create_task(worker.run(), name=f"alert handler {name}"))

    async def _end(self, running: _Running) -> None:
        running.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running.task


def make(config: AlertHandler, *, now_us: Callable[[], int]) -> Handler:
    """Gives the handler that settings describe."""
    seconds = config.timeout_seconds
    match config.kind:
        case LogHandler():
            return Log()
        case WebhookHandler() as webhook:
            return Webhook(webhook, seconds=seconds, now_us=now_us)
        case EmailHandler() as email:
            return Email(email, seconds=seconds, now_us=now_us)
        case AlertmanagerHandler() as alertmanager:
            return Alertmanager(alertmanager, seconds=seconds, repeat_seconds=config.repeats_every, now_us=now_us)
        case PythonHandler() as python:
            return PythonCallable(python, seconds=seconds)
        case other:
            assert_never(other)


def kind_of(config: AlertHandler) -> str:
    """Gives the word for a handler's kind."""
    return type(config.kind).__name__.removesuffix("Handler").lower()


def audience_of(config: AlertHandler) -> Audience:
    """Gives what a handler wants to hear of."""
    return Audience(
        min_severity=Severity[config.min_severity.upper()],
        types=frozenset(config.types),
        families=frozenset(config.families),
        repeat_seconds=config.repeats_every,
    )
