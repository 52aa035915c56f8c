"""The router's memory is bounded: it does not grow with the number of decisions."""

from __future__ import annotations

import gc

import psutil

from router.answers import Reply
from router.resilience.reasons import Fallback
from tests.integration.platform_under_test import ROW, platform

ROWS = 64
DECISIONS_BEFORE = 70_000
"""Enough that every bounded memory of the router is full."""
DECISIONS_AFTER = 60_000
MOST_GROWTH_BYTES = 6_000_000
"""100 bytes a decision; a reused message that kept its texts cost 280."""


async def test_memory_stays_the_same_after_tens_of_thousands_of_decisions() -> None:
    """Once its bounded memories are full, more decisions cost no more memory."""
    async with platform() as p:
        decider = p.router.decider
        route = decider.table.route("dispatch")

        def decide(decisions: int) -> int:
            for _ in range(decisions // ROWS):
                rows = [
                    decider.prepare(
                        route,
                        tenant="default",
                        decision_id="",
                        unit_id=f"incident-{number}",
                        region="",
                        numbers=ROW,
                        categories={},
                        flags={},
                        time_left=1.0,
                    )
                    for number in range(ROWS)
                ]
                decider.admit(rows)
                decider._finish(rows, Reply((0.5,) * ROWS, Fallback.NONE, "fake:1"))
            gc.collect()
            return int(psutil.Process().memory_info().rss)

        before = decide(DECISIONS_BEFORE)
        assert decide(DECISIONS_AFTER) - before < MOST_GROWTH_BYTES
