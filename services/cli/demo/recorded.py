"""Traffic from real records: the newest ones, row by row, as if they happened now; their outcomes follow later."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from bentos.family import Record
from services.cli.demo.pace import Pace
from services.cli.demo.plan import DEADLINE_SECONDS, FAMILY, RATE
from services.cli.demo.tally import CountingPredictor
from services.client import Outcome
from services.runtime.errors import TurnoutError

_CONCURRENCY: Final = 16
_OUTCOME_AFTER_SECONDS: Final = 1.0
_OUTCOME_SECONDS: Final = 10.0
_BATCH: Final = 500


class RecordedTraffic:
    """Replays records as live traffic.

    Args:
        records: the newest ones, in order of time; training never saw them.
        seconds: how long they should last.
    """

    def __init__(self, records: Sequence[Record], seconds: float) -> None:
        self._records = records
        self._pace = Pace(min(RATE, len(records) / seconds))
        self._due: deque[tuple[float, Outcome]] = deque()

    async def run(self, predictor: CountingPredictor, stop: asyncio.Event) -> None:
        """Asks for each record's prediction until `stop` or the records end, then reports the outcomes left."""
        gate = asyncio.Semaphore(_CONCURRENCY)
        asked = asyncio.Event()
        reporting = asyncio.create_task(self._report(predictor, asked))
        try:
            async with asyncio.TaskGroup() as group:
                for record in self._records:
                    if stop.is_set():
                        break
                    await self._pace.wait(1)
                    await gate.acquire()
                    group.create_task(self._ask(predictor, record, gate))
            asked.set()
            await reporting
        finally:
            reporting.cancel()

    async def _ask(self, predictor: CountingPredictor, record: Record, gate: asyncio.Semaphore) -> None:
        try:
            answer = await predictor.predict(
                FAMILY,
                record.features,
                unit_id=record.unit_id,
                region=record.region,
                timeout=DEADLINE_SECONDS,
            )
        except TurnoutError:
            # Counted by the predictor; the next record is asked all the same.
            return
        finally:
            gate.release()
        at = asyncio.get_running_loop().time() + _OUTCOME_AFTER_SECONDS
        self._due.append((at, Outcome(answer.decision_id, record.outcome)))

    async def _report(self, predictor: CountingPredictor, asked: asyncio.Event) -> None:
        """Reports what is due, oldest first; everything at once after the last question."""
        clock = asyncio.get_running_loop().time
        while self._due or not asked.is_set():
            now = clock()
            batch: list[Outcome] = []
            while self._due and len(batch) < _BATCH and (asked.is_set() or self._due[0][0] <= now):
                batch.append(self._due.popleft()[1])
            if batch:
                try:
                    await predictor.record_outcomes(batch, timeout=_OUTCOME_SECONDS)
                except TurnoutError:
                    # Counted by the predictor.
                    continue
            else:
                await asyncio.sleep(0.05)
