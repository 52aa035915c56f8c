"""Alerts from start to stop: settings, engine, handlers, and the passing of time. Parameters are seams for tests."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry

from monitoring.alerts.engine import AlertEngine
from monitoring.alerts.handlers.deliveries import Deliveries
from monitoring.alerts.metrics import AlertMetrics
from monitoring.alerts.opening import open_alerts
from monitoring.alerts.service import AlertCalls
from monitoring.settings.service import SettingsCalls
from monitoring.settings.store import SettingsStore, open_settings
from services.runtime.cancelling import asked_to_end
from services.runtime.database import Database
from services.runtime.errors import TurnoutError
from services.runtime.identifiers import uuid7_source
from services.runtime.monitoring_config import MonitoringSettings

TICK_SECONDS: Final = 5.0
TIDY_SECONDS: Final = 30.0
_log: Final[Any] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Alerting:
    """Running alerts."""

    database: Database
    settings: SettingsStore
    engine: AlertEngine
    deliveries: Deliveries
    now_us: Callable[[], int]

    def calls(self, *, stopping: Callable[[], bool]) -> tuple[AlertCalls, SettingsCalls]:
        """Gives the parts of MonitoringService that answer for alerts and settings.

        Args:
            stopping: tells whether the process drains; watches end then.
        """
        alerts = AlertCalls(self.engine, self.deliveries, self.database, now_us=self.now_us, stopping=stopping)
        return alerts, SettingsCalls(self.settings, changed=self.settings_changed)

    async def settings_changed(self, settings: MonitoringSettings) -> None:
        """Makes the handlers those of the settings, and lets rules that changed take effect."""
        await self.deliveries.configure(settings.handlers)
        await self.engine.tick()


@contextlib.asynccontextmanager
async def alerting(
    database: Database,
    declared: MonitoringSettings,
    *,
    registry: CollectorRegistry,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    clock: Callable[[], float] = time.monotonic,
    chance: Callable[[], float] = random.random,
    tick_seconds: float = TICK_SECONDS,
) -> AsyncIterator[Alerting]:
    """Runs alerts until the block ends. What is not delivered or stored by then is due again at the next start.

    Args:
        database: the hub's.
        declared: the section `monitoring` of turnout.yaml.
        registry: where metrics go.
        now_us: microseconds since 1970-01-01T00:00Z.
        clock: rising seconds.
        chance: a number in [0, 1), to spread attempts of handlers.
        tick_seconds: how often time passes for alerts.

    Raises:
        Unavailable: the database refused.
    """
    metrics = AlertMetrics(registry)
    settings = await open_settings(database, declared, now_us=now_us)
    new_id = uuid7_source(lambda: now_us() // 1000, secrets.randbits)
    engine = await open_alerts(database, rules=settings.rules, now_us=now_us, new_id=new_id, metrics=metrics)
    deliveries = Deliveries(engine, metrics=metrics, clock=clock, now_us=now_us, chance=chance)
    running = Alerting(database, settings, engine, deliveries, now_us)
    await deliveries.configure(settings.current.handlers)
    ticking = asyncio.create_task(_tick(running, tick_seconds), name="alerts' time")
    try:
        yield running
    finally:
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking
        await deliveries.close()
        await engine.flush()


async def _tick(running: Alerting, seconds: float) -> None:
    while not asked_to_end():
        await asyncio.sleep(seconds)
        try:
            await running.engine.tick()
            # A database that hangs must not stop the alerts' time.
            async with asyncio.timeout(TIDY_SECONDS):
                await running.engine.tidy(history_days=running.settings.current.history_days)
        except (TurnoutError, TimeoutError):
            # The database says so itself, once; the next time may work.
            continue
        except Exception:  # noqa: BLE001 - alerts must not stand still because one look at them failed
            _log.exception("alerts could not be looked after")
