"""Looks after a ledger for as long as it is open: a step at a time, so that batches never wait for long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import structlog

from monitoring.ledger.store import Store
from monitoring.ledger.upkeep import Step
from services.runtime.cancelling import asked_to_end
from services.runtime.errors import Unavailable

_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def keeping_up(
    store: Store, *, pause_seconds: float, stepped: Callable[[Step], None] = lambda _step: None
) -> AsyncIterator[None]:
    """Does what is due, now and every `pause_seconds`, until the block ends; `stepped` is told of each step."""
    task = asyncio.create_task(_forever(store, pause_seconds, stepped))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _forever(store: Store, pause_seconds: float, stepped: Callable[[Step], None]) -> None:
    while not asked_to_end():
        try:
            step = await store.upkeep()
            stepped(step)
            if step.more:
                # Batches that wait have their turn between two steps.
                await asyncio.sleep(0)
                continue
        except Unavailable:
            pass  # the database tells its own trouble; the step is due again
        except Exception as error:  # noqa: BLE001 - upkeep that fails must not end the hub
            _log.error("ledger upkeep failed", error=type(error).__name__, reason=str(error))
        await asyncio.sleep(pause_seconds)
