"""Outcomes that nobody waits for: a bounded queue and one task that delivers it, as long as it takes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

import structlog

from services.client.answers import Durability
from services.client.outcomes import MAX_OUTCOMES, Outcome, OutcomeSettings, Recorder, is_transient
from services.runtime.cancelling import asked_to_end
from services.runtime.errors import TurnoutError
from turnout.v1.prediction_pb2 import RecordOutcomeRequest

_ROUND_SECONDS: Final = 10.0
"""How long one batch is tried before it is put back and tried anew."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OutcomeStatistics:
    """Outcomes given to `report_outcome`: each is in exactly one of these."""

    sent: int
    """Taken by the router."""
    pending: int
    """Waiting or on their way."""
    dropped: int
    """Not taken into the queue because it was full."""
    refused: int
    """Refused by the router for good: a decision that nobody made, a value out of range."""
    local: int
    """Not sent: their decisions were answered by this client and are unknown to the router."""


class Reporter:
    """The queue and its sender; `run` delivers until it is cancelled."""

    def __init__(
        self, recorder: Recorder, settings: OutcomeSettings, *, clock: Callable[[], float], chance: Random
    ) -> None:
        self._recorder = recorder
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._waiting: deque[RecordOutcomeRequest] = deque()
        self._sending = 0
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._sent = self._dropped = self._refused = self._local = 0

    @property
    def statistics(self) -> OutcomeStatistics:
        """Counts so far."""
        return OutcomeStatistics(
            self._sent, len(self._waiting) + self._sending, self._dropped, self._refused, self._local
        )

    def report(self, outcome: Outcome) -> bool:
        """Queues an outcome; False when the queue is full and the outcome was dropped.

        Raises:
            InvalidArgument: names the field.
        """
        message = self._recorder.message(outcome)
        if len(self._waiting) + self._sending >= self._settings.queue_bound:
            self._dropped += 1
            return False
        self._waiting.append(message)
        self._empty.clear()
        self._filled.set()
        return True

    async def flush(self, timeout_seconds: float) -> bool:
        """Waits until nothing is pending; False when the time was too short."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Delivers what is queued, in batches, oldest first."""
        rounds = 0
        while not asked_to_end():
            if not self._waiting:
                self._empty.set()
                self._filled.clear()
                await self._filled.wait()
            batch = [self._waiting.popleft() for _ in range(min(MAX_OUTCOMES, len(self._waiting)))]
            again = await self._deliver(batch)
            self._waiting.extendleft(reversed(again))
            rounds = rounds + 1 if again else 0
            if again:
                await asyncio.sleep(self._settings.backoff.delay(rounds, self._chance))

    async def _deliver(self, batch: list[RecordOutcomeRequest]) -> list[RecordOutcomeRequest]:
        """Delivers one batch; gives back those that are worth another round."""
        self._sending = len(batch)
        again = batch
        try:
            results = await self._recorder.record(batch, self._clock() + _ROUND_SECONDS)
            again = []
            for message, result in zip(batch, results, strict=True):
                if isinstance(result, TurnoutError):
                    if is_transient(result):
                        again.append(message)
                    else:
                        self._refused += 1
                        _log.warning("outcome refused", decision_id=message.decision_id, reason=result.message)
                elif result is Durability.NONE:
                    self._local += 1
                else:
                    self._sent += 1
        finally:
            # A sender that is cancelled leaves its batch pending: it was not dropped, and not sent for certain.
            self._sending = 0 if again is not batch else len(batch)
        return again
