"""Composes experiment control: the store, what follows turnout.yaml, and what keeps the routers' status."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from services.control.fitting import Serving
from services.control.metrics import ControlMetrics
from services.control.routers import Routers, read_routers, write_routers
from services.control.service import Decide, ExperimentService
from services.control.store import ExperimentStore
from services.control.watching import Pace, Watching
from services.runtime.cancelling import asked_to_end
from services.runtime.config import Config, ConfigError, read_config
from services.runtime.database import Database
from services.runtime.errors import TurnoutError, Unavailable
from services.runtime.followed_file import fingerprint

FOLLOW_SECONDS: Final = 0.2
KEEP_SECONDS: Final = 1.0
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Served:
    """What turnout.yaml says at this moment."""

    config: Config
    declared: bool = False
    """Whether the store took that over, or refused it."""


@contextlib.asynccontextmanager
async def steering(
    database: Database,
    config_path: Path,
    decide: Decide,
    *,
    metrics: ControlMetrics,
    now_us: Callable[[], int],
    clock: Callable[[], float] = time.monotonic,
    make_origin: Callable[[], str] = lambda: uuid.uuid4().hex,
    pace: Pace | None = None,
) -> AsyncIterator[ExperimentService]:
    """Gives the service with everything read: no router ever sees an empty set because the hub just began.

    Args:
        database: where experiments are; open longer than this block.
        config_path: turnout.yaml; what it declares is taken over now and each time it changes.
        decide: the routers' own pure assignment.
        metrics: where it is counted.
        now_us: microseconds since 1970-01-01T00:00Z.
        clock: rising seconds.
        make_origin: makes a name, never used before, for a fresh database.
        pace: how long routers are waited for.

    Raises:
        ConfigError: the file is wrong.
        Unavailable: the database cannot be read.
    """
    routers = Routers(now_us=now_us)
    watching = Watching(routers, metrics, clock=clock, pace=pace or Pace())
    store = ExperimentStore(database, now_us=now_us, published=lambda state: watching.publish(state.set))
    seen = fingerprint(config_path)
    served = _Served(read_config(config_path))
    await store.load(make_origin())
    routers.remember(await database.read(read_routers))
    await _declare(store, served, metrics)

    async def follow() -> None:
        nonlocal seen
        now = fingerprint(config_path)
        if now is None or now == seen:
            return
        seen = now
        try:
            served.config = await asyncio.to_thread(read_config, config_path)
        except ConfigError as error:
            metrics.imported(taken=False)
            _log.error("turnout.yaml refused; what runs stays", reason=str(error))
        else:
            await _declare(store, served, metrics)

    async def keep() -> None:
        if not served.declared:
            await _declare(store, served, metrics)
        with contextlib.suppress(TurnoutError):
            await store.refresh()
            await _keep(database, routers)

    tasks = [asyncio.create_task(_each(FOLLOW_SECONDS, follow)), asyncio.create_task(_each(KEEP_SECONDS, keep))]
    try:
        yield ExperimentService(
            store,
            watching,
            routers,
            decide,
            serving=lambda: Serving(served.config, routers.ready()),
            metrics=metrics,
            now_us=now_us,
        )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TurnoutError):
            await _keep(database, routers)


async def _each(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    """Does a step again and again until cancelled; one that breaks is told and ends no later one."""
    while not asked_to_end():
        await asyncio.sleep(seconds)
        try:
            await step()
        except Exception:  # noqa: BLE001 - what runs would not be followed any more, and nobody would notice
            _log.exception("experiment control could not look after itself; it tries again")


async def _declare(store: ExperimentStore, served: _Served, metrics: ControlMetrics) -> None:
    """Takes over what the file says anew; what does not fit to the operators' work is told and left out whole."""
    served.declared = False
    try:
        plan = await store.declare(served.config.experiments, served.config.layers)
    except Unavailable:
        # The database tells its own trouble; what the file says is due again.
        return
    except TurnoutError as error:
        served.declared = True
        metrics.imported(taken=False)
        _log.error("turnout.yaml does not fit to what runs; what runs stays", reason=error.message)
        return
    served.declared = True
    if plan:
        metrics.imported(taken=True)


async def _keep(database: Database, routers: Routers) -> None:
    if routers.changed:
        routers.changed = False
        try:
            await database.write(write_routers, routers.recent())
        except TurnoutError:
            routers.changed = True
            raise
