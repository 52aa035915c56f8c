"""Counts what callers see: answers, errors, fallbacks, outcomes that were taken."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from services.cli.demo.plan import DEADLINE_SECONDS
from services.client import Answer, Durability, FallbackReason, Outcome, TurnoutClient
from services.runtime.errors import TurnoutError


class Tally:
    """The counts of a run, and a way to wait for something to be seen."""

    def __init__(self) -> None:
        self.predictions = 0
        self.errors = 0
        self.first_error = ""
        self.in_deadline = 0
        self.outcomes_recorded = 0
        self.outcomes_local = 0
        self.revision = 0
        """Newest revision of the experiment in an answer."""
        self.fallbacks: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.by_router: set[str] = set()
        """Ids of the decisions that the router answered: the ledger must hold each exactly once."""
        self.local: set[str] = set()
        """Ids of those that the client's own rules answered: the ledger may or may not hold them."""
        self.abandoned = 0
        """Rows whose ids nobody heard, since the dispatch service gave up on the call: likewise."""
        self._changed = asyncio.Condition()

    async def answered(self, answers: Sequence[Answer], seconds: float) -> None:
        """Counts the answers of one call that took that long."""
        self.predictions += len(answers)
        if seconds <= DEADLINE_SECONDS:
            self.in_deadline += len(answers)
        for answer in answers:
            self.served[answer.served_variant] += 1
            self.revision = max(self.revision, answer.assignment.revision)
            if answer.fallback is not FallbackReason.NONE:
                self.fallbacks[answer.fallback.name.lower()] += 1
            local = answer.fallback is FallbackReason.ROUTER_AWAY
            (self.local if local else self.by_router).add(answer.decision_id)
        async with self._changed:
            self._changed.notify_all()

    def gave_up(self, rows: int, seconds: float) -> None:
        """Counts a call that the dispatch service gave up on after that long: its own rules answer at once."""
        self.predictions += rows
        self.abandoned += rows
        self.fallbacks["abandoned"] += rows
        if seconds <= DEADLINE_SECONDS:
            self.in_deadline += rows

    def failed(self, error: Exception, predictions: int) -> None:
        """Counts a call that gave no answer."""
        self.predictions += predictions
        self.errors += predictions
        self.first_error = self.first_error or f"{type(error).__name__}: {error}"

    async def until(self, seen: Callable[[], bool], seconds: float) -> bool:
        """Waits until something is so after an answer; False when that took too long."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(seen)
        except TimeoutError:
            return False
        return True


class CountingPredictor:
    """The client library, with everything that goes through it counted; what the dispatch service asks."""

    def __init__(self, client: TurnoutClient, tally: Tally) -> None:
        self._client = client
        self._tally = tally

    async def predict_batch(
        self,
        family: str,
        rows: Sequence[Mapping[str, float | str | bool]],
        *,
        unit_id: str,
        region: str,
        timeout: float,  # noqa: ASYNC109 - the deadline travels to the router
    ) -> Sequence[Answer]:
        """Asks for a batch and counts its answers."""
        started = time.monotonic()
        try:
            answers = await self._client.predict_batch(family, rows, unit_id=unit_id, region=region, timeout=timeout)
        except asyncio.CancelledError:
            self._tally.gave_up(len(rows), time.monotonic() - started)
            raise
        except Exception as error:
            self._tally.failed(error, len(rows))
            raise
        await self._tally.answered(answers, time.monotonic() - started)
        return answers

    async def predict(
        self,
        family: str,
        features: Mapping[str, float | str | bool],
        *,
        unit_id: str,
        region: str,
        timeout: float,  # noqa: ASYNC109 - the deadline travels to the router
    ) -> Answer:
        """Asks for one row and counts its answer."""
        started = time.monotonic()
        try:
            answer = await self._client.predict(family, features, unit_id=unit_id, region=region, timeout=timeout)
        except Exception as error:
            self._tally.failed(error, 1)
            raise
        await self._tally.answered((answer,), time.monotonic() - started)
        return answer

    async def record_outcome(
        self,
        decision_id: str,
        value: float,
        occurred_at: datetime | None,
        *,
        timeout: float,  # noqa: ASYNC109 - bounds all attempts together
    ) -> None:
        """Reports an outcome and counts it."""
        await self.record_outcomes([Outcome(decision_id, value, occurred_at)], timeout=timeout)

    async def record_outcomes(self, outcomes: Sequence[Outcome], *, timeout: float) -> None:  # noqa: ASYNC109 - as above
        """Reports outcomes and counts them.

        Raises:
            TurnoutError: the first one that was refused.
        """
        refused = None
        for result in await self._client.record_outcomes(outcomes, timeout=timeout):
            if isinstance(result, TurnoutError):
                self._tally.failed(result, 0)
                self._tally.errors += 1
                refused = refused or result
            elif result is Durability.NONE:
                self._tally.outcomes_local += 1
            else:
                self._tally.outcomes_recorded += 1
        if refused is not None:
            raise refused
