"""What really happened, told to the router: retried while that can help, and never lost without being counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from google.protobuf.message import DecodeError

from services.client.answers import Durability, durability_of
from services.client.backoff import Backoff
from services.client.status import Failure, error_of_result
from services.runtime.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TurnoutError,
    Unavailable,
)
from services.runtime.identifiers import check_decision_id
from turnout.v1.prediction_pb2 import RecordOutcomeRequest, RecordOutcomesRequest, RecordOutcomesResponse

MAX_OUTCOMES: Final = 1000
"""Outcomes that the router takes in one call."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_TRANSIENT: Final = (Unavailable, ResourceExhausted, DeadlineExceeded)

OutcomeResult = Durability | TurnoutError
Ask = Callable[[str, bytes, float], Awaitable[bytes | Failure]]
"""Makes a unary call by method, payload and the loop's time until which to wait."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The target of one decision as it turned out, and what it cost; `occurred_at` carries its zone, None means now."""

    decision_id: str
    value: float
    occurred_at: datetime | None = None
    cost: float | None = None
    """In the family's unit of costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeSettings:
    """How outcomes are delivered; times in seconds."""

    backoff: Backoff = field(default_factory=lambda: Backoff(0.05, 2.0))
    attempt_timeout: float = 2.0
    unknown_grace: float = 2.0
    """How long a decision may be unknown: another router than the one that decided may hear of it later."""
    queue_bound: int = 10_000
    """Outcomes that `report_outcome` holds; more are dropped, and counted."""


class LocalDecisions:
    """Decisions that this client answered by itself, the newest `bound` of them, and whether the router saw them."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._sent: dict[str, bool] = {}

    def add(self, decision_id: str, *, sent: bool) -> None:
        """Remembers a decision; the oldest is forgotten beyond the bound."""
        self._sent[decision_id] = sent
        if len(self._sent) > self._bound:
            del self._sent[next(iter(self._sent))]

    def is_unknown_to_router(self, decision_id: str) -> bool:
        """Tells whether the router cannot know this decision: it never left this process."""
        return self._sent.get(decision_id) is False

    def __contains__(self, decision_id: str) -> bool:
        return decision_id in self._sent


class Recorder:
    """Delivers outcomes by unary calls."""

    def __init__(
        self,
        ask: Ask,
        local: LocalDecisions,
        settings: OutcomeSettings,
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
        chance: Random,
    ) -> None:
        self._ask = ask
        self._local = local
        self._settings = settings
        self._clock = clock
        self._now = now
        self._chance = chance
        self.local = 0
        """Outcomes of decisions that the router does not know, because this client answered."""

    def message(self, outcome: Outcome) -> RecordOutcomeRequest:
        """Makes the message of an outcome; "now" becomes an instant here, before any retry or queue.

        Raises:
            InvalidArgument: names the field.
        """
        check_decision_id(outcome.decision_id)
        at = outcome.occurred_at
        if at is None:
            microseconds = int(self._now() * 1e6)
        elif at.tzinfo is None:
            raise InvalidArgument("occurred_at", "occurred_at must carry its time zone")
        else:
            microseconds = (at - _EPOCH) // _MICROSECOND
        value = float(outcome.value)
        return RecordOutcomeRequest(
            decision_id=outcome.decision_id, value=value, occurred_at_unix_us=microseconds, cost=outcome.cost
        )

    async def record(self, outcomes: Sequence[RecordOutcomeRequest], until: float) -> list[OutcomeResult]:
        """Delivers outcomes, at most `MAX_OUTCOMES`, again and again until the loop's time `until`.

        Gives one result each, in their order: where it is recorded, or the error that stood last.
        """
        results: list[OutcomeResult] = [Durability.NONE] * len(outcomes)
        left = [i for i, o in enumerate(outcomes) if not self._local.is_unknown_to_router(o.decision_id)]
        self.local += len(outcomes) - len(left)
        grace_ends = self._clock() + self._settings.unknown_grace
        attempt = 0
        while left:
            latest = await self._send([outcomes[i] for i in left], until)
            for index, result in zip(left, latest, strict=True):
                results[index] = result
            # The router's own hint says when it is worth coming back, if it gave one.
            hints = [latest_one.retry_after for latest_one in latest if isinstance(latest_one, ResourceExhausted)]
            delay = max(self._settings.backoff.delay(attempt, self._chance), *hints, 0.0)
            at = self._clock() + delay
            again = [i for i in left if _worth_repeating(results[i], within_grace=at < grace_ends)]
            if not again or at >= until:
                break
            left = again
            attempt += 1
            await asyncio.sleep(delay)
        return [self._known(o.decision_id, result) for o, result in zip(outcomes, results, strict=True)]

    async def _send(self, outcomes: list[RecordOutcomeRequest], until: float) -> list[OutcomeResult]:
        payload = RecordOutcomesRequest(outcomes=outcomes).SerializeToString()
        reply = await self._ask("RecordOutcomes", payload, min(until, self._clock() + self._settings.attempt_timeout))
        if isinstance(reply, Failure):
            return [reply.error] * len(outcomes)
        try:
            results = RecordOutcomesResponse.FromString(reply).results
        except DecodeError:
            return [Unavailable("", "the router's answer could not be read")] * len(outcomes)
        if len(results) != len(outcomes):
            return [Unavailable("", "the router's answer has another number of results")] * len(outcomes)
        return [
            error_of_result(r.error) if r.HasField("error") else durability_of(r.accepted.durability) for r in results
        ]

    def _known(self, decision_id: str, result: OutcomeResult) -> OutcomeResult:
        """A decision that timed out here may or may not have reached the router: if not, it was local after all."""
        if isinstance(result, NotFound) and decision_id in self._local:
            self.local += 1
            return Durability.NONE
        return result


def is_transient(result: OutcomeResult) -> bool:
    """Tells whether trying again later may help."""
    return isinstance(result, _TRANSIENT)


def _worth_repeating(result: OutcomeResult, *, within_grace: bool) -> bool:
    return is_transient(result) or (within_grace and isinstance(result, NotFound))
