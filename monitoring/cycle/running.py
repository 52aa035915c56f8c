"""The check cycle from start to stop: what is seen becomes findings, alerts, health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog
from sqlalchemy import Connection, text

from bentos.family import Family
from monitoring.alerting import Alerting
from monitoring.alerts.conditions import Condition
from monitoring.cycle import health, judging, looking
from monitoring.cycle.conditions import declared_families, model_conditions, traffic_conditions
from monitoring.cycle.findings import FamilySeen, Finding
from monitoring.cycle.health import DatabaseSeen, Health
from monitoring.cycle.itself import own_conditions
from monitoring.cycle.monitors import Monitors
from monitoring.cycle.platform import Platform
from monitoring.cycle.telling import log_health, tell_metrics
from monitoring.metrics import MonitoringMetrics
from services.runtime.cancelling import asked_to_end
from services.runtime.database import Database
from services.runtime.errors import TurnoutError
from services.runtime.monitoring_config import MonitoringSettings

FEED_SECONDS: Final = 30.0
"""Between two times that the monitors take what waits; each cycle takes it too."""
FIRST_SECONDS: Final = 5.0
"""From the first cycle, at the start, to the second; each pause is twice the one before, up to the settings'."""
ANSWER_SECONDS: Final = 60.0
"""A database that says nothing for so long is away: what it may still be doing is not waited for."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What the last cycle that worked found."""

    findings: tuple[Finding, ...] = ()
    conditions: tuple[Condition, ...] = ()
    at_us: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """What one cycle found."""

    conditions: tuple[Condition, ...] = ()
    parts: tuple[health.Part, ...] = ()
    """Health of the families."""
    seen: tuple[FamilySeen, ...] = ()
    bytes: int = 0
    """Size of the database."""
    failure: str = ""
    """Why it is not whole; empty when it is."""
    readable: bool = True
    """Whether that is no fault of the database."""


class Cycle:
    """The check cycle of a hub. Belongs to one event loop.

    Args:
        database: the hub's.
        alerting: running alerts; settings come from there.
        monitors: fed by the ledger.
        families: gives a family's declaration, None when there is none.
        platform: gives what runs now.
        metrics: where it is told.
        now_us: microseconds since 1970-01-01T00:00Z.
        clock: rising seconds.
        answer_seconds: how long the database may take for one question or one transaction.
    """

    def __init__(
        self,
        database: Database,
        alerting: Alerting,
        monitors: Monitors,
        *,
        families: Callable[[str], Family | None],
        platform: Callable[[], Platform],
        metrics: MonitoringMetrics,
        now_us: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.database, self.alerting, self.monitors = database, alerting, monitors
        self.families, self.platform = families, platform
        self._metrics, self._now_us, self._clock = metrics, now_us, clock
        self._answer_seconds = answer_seconds
        self._memory: looking.Memory | None = None
        self._cycles = 0
        self.health = Health()
        self.report = Report()

    @property
    def settings(self) -> MonitoringSettings:
        """Those in force."""
        return self.alerting.settings.current

    async def once(self) -> Health:
        """Runs one cycle now; what fails is told in the log, in the health and as an alert, and never raised."""
        began, settings = self._clock(), self.settings
        writable = await self.feed()
        found = await self._find(settings)
        if not found.failure:
            writable = await self._save() and writable
        database = DatabaseSeen(
            failure=found.failure,
            readable=found.readable,
            writable=writable,
            seconds=self._clock() - began,
            bytes=found.bytes,
            alerts_wait=self.alerting.engine.waiting_for_database,
            unwatched=self.monitors.unwatched,
        )
        own = own_conditions(database, self.settings.cycle_seconds)
        await self.alerting.engine.observe([*found.conditions, *own])
        self._conclude(found, database, began)
        if found.failure:
            _log.error("check cycle failed; the next one tries again", reason=found.failure)
        return self.health

    async def feed(self) -> bool:
        """Lets the monitors take what waits; tells whether the database took it."""
        try:
            taken = 1
            while taken:
                async with asyncio.timeout(self._answer_seconds):
                    taken = await self.database.exclusively(lambda: self.monitors.feed_now(self.database))
        except (TurnoutError, TimeoutError):
            return False
        except Exception as error:  # noqa: BLE001 - the cycle goes on without them
            _log.exception("monitors could not be fed", error=type(error).__name__)
            return False
        return True

    async def run(self) -> None:
        """Runs cycles for ever: the first at once, the next soon after, then each `cycle_seconds` after the last began.

        What follows a start — routers that connect, first traffic — is so seen within seconds.
        """
        began: float | None = None
        fed = self._clock()
        while not asked_to_end():
            now = self._clock()
            # Settings may shorten the time until the next cycle at any moment.
            if began is None or now >= began + self._pause():
                began = now
                try:
                    await self.once()
                except Exception:  # noqa: BLE001 - health would stand still for ever, and nobody would notice
                    _log.exception("check cycle broke off; the next one tries again")
                fed = self._clock()
            elif now >= fed + FEED_SECONDS:
                await self.feed()
                fed = self._clock()
            left = began + self._pause() - self._clock()
            await asyncio.sleep(min(max(left, 0.05), 1.0))

    def _pause(self) -> float:
        """Gives the seconds from the beginning of the last cycle to that of the next."""
        return min(float(self.settings.cycle_seconds), FIRST_SECONDS * 2.0 ** min(max(self._cycles - 1, 0), 30))

    async def _find(self, settings: MonitoringSettings) -> _Found:
        """Looks and judges; what fails is told, and what needs no database is judged all the same."""
        found = _Found(parts=tuple(part for part in self.health.parts if part.family))
        try:
            platform, now_us = self.platform(), self._now_us()
            declared = declared_families(platform.families, self.families, settings)
            models = model_conditions(platform, declared, now_us)
            parts = health.parts_without_traffic(self.health.parts, models, self.report.conditions, platform)
            found = _Found(tuple(models), tuple(parts))
            async with asyncio.timeout(self._answer_seconds):
                watched = await self.database.exclusively(lambda: self.monitors.watch(self.database))
            async with asyncio.timeout(self._answer_seconds):
                seen, size = await self._look([one.family for one in declared.values()], settings, platform)
            online = judging.online_findings(watched.standings, now_us)
            findings = [*online, *(finding for one in seen for finding in one.findings)]
            traffic = traffic_conditions(seen, findings, platform.splits, watched.arrivals, declared)
            conditions = (*traffic, *models)
            self.report = Report(tuple(findings), conditions, now_us)
            judged = [health.family_parts(one, conditions, platform, declared[one.family].limits) for one in seen]
            return _Found(conditions, tuple(part for three in judged for part in three), tuple(seen), size)
        except TurnoutError as error:
            return replace(found, failure=error.message, readable=False)
        except TimeoutError:
            failure = f"the database did not answer within {self._answer_seconds:g} s"
            return replace(found, failure=failure, readable=False)
        except Exception as error:  # noqa: BLE001 - the next cycle may work, and nobody else would notice
            _log.exception("check cycle failed")
            return replace(found, failure=f"{type(error).__name__}: {error}")

    async def _look(
        self, families: list[Family], settings: MonitoringSettings, platform: Platform
    ) -> tuple[list[FamilySeen], int]:
        now_us = self._now_us()

        def read(connection: Connection) -> tuple[list[FamilySeen], looking.Memory, int]:
            memory = self._memory or looking.load_memory(connection)
            seen = []
            for family in families:
                trained = platform.trained(family.name)
                one, memory = looking.look(connection, family, settings, memory, now_us, trained=trained)
                seen.append(one)
            return seen, memory, database_bytes(connection)

        seen, self._memory, size = await self.database.read(read)
        return seen, size

    async def _save(self) -> bool:
        memory = self._memory
        assert memory is not None
        try:
            async with asyncio.timeout(self._answer_seconds):
                await self.database.write(looking.save_memory, memory, self._now_us())
        except (TurnoutError, TimeoutError):
            return False
        return True

    def _conclude(self, found: _Found, database: DatabaseSeen, began: float) -> None:
        seconds, now_us = self._clock() - began, self._now_us()
        self._cycles += 1
        self.health = Health(
            (health.database_part(database), *health.platform_parts(found.parts), *found.parts),
            now_us,
            now_us + max(0, int((self._pause() - seconds) * 1e6)),
            seconds,
        )
        log_health(self.health)
        tell_metrics(self._metrics, self.health, found.seen, self.report, done=not found.failure)


def database_bytes(connection: Connection) -> int:
    """Gives the size of the database."""
    if connection.dialect.name == "postgresql":
        return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)
    pages = int(connection.scalar(text("PRAGMA page_count")) or 0)
    return pages * int(connection.scalar(text("PRAGMA page_size")) or 0)


@contextlib.asynccontextmanager
async def cycling(cycle: Cycle) -> AsyncIterator[Cycle]:
    """Runs the cycle until the block ends."""
    task = asyncio.create_task(cycle.run(), name="check cycle")
    try:
        yield cycle
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
