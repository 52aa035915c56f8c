"""Asks variants for the values of rows that travel together, inside the caller's deadline.

    assigned arm (its share of the time) ─▶ hedge ─▶ one retry elsewhere ─▶ next arms of the policy ─▶ nothing: rules

Whoever asks has the rules at hand, so that giving up costs nothing; `docs/answer-always.md` says when which step is
taken. When the assigned arm answers at the first attempt, this costs one look at its guard and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bentos.family import RULES
from router.answers import Attempt, Reply
from router.backends.link import Link
from router.backends.pool import Pool
from router.backends.results import Failure, Result, Served, Values
from router.metrics import AttemptKind, RouterMetrics
from router.resilience.budget import SHORTEST_BUDGET_SECONDS, arm_budget
from router.resilience.reasons import Fallback
from router.resilience.standing_alerts import StandingAlerts
from router.resilience.validity import outside, valid_range
from router.routing import Route, pool_of

FROM_FAILURE: Final = {
    Failure.UNAVAILABLE: Fallback.UNAVAILABLE,
    Failure.CONNECTION: Fallback.CONNECTION,
    Failure.TIMEOUT: Fallback.TIMEOUT,
    Failure.ERROR: Fallback.ERROR,
    Failure.INVALID: Fallback.INVALID,
    Failure.OVERLOADED: Fallback.OVERLOADED,
}
"""Why there is no answer of a variant, as callers and the ledger are told."""
_NOBODY: Final = Reply(None, Fallback.NONE, "")
_NO_TIME: Final = Reply(None, Fallback.NO_TIME, "")
_SHED: Final = Reply(None, Fallback.SHED, "")
_NONE_OUTSIDE: Final[frozenset[int]] = frozenset()


@dataclass(slots=True)
class _Question:
    """Rows on their way through the variants, and what happened so far."""

    route: Route
    packed: bytes
    rows: int
    arrived: float
    deadline: float
    attempts: list[Attempt] = field(default_factory=list)

    def note(self, variant: str, failure: Fallback, began: float, now: float, *, hedge: bool = False) -> None:
        after = int((began - self.arrived) * 1e6)
        self.attempts.append(Attempt(variant, failure, max(after, 0), int((now - began) * 1e6), hedge))


class _At(NamedTuple):
    """A backend of a variant."""

    variant: str
    pool: Pool
    link: Link
    served: Served


class _Sent(NamedTuple):
    """A copy of a question at one backend."""

    future: asyncio.Future[Result]
    served: Served
    began: float
    hedge: bool


class Asking:
    """Asks variants on behalf of a decider.

    Args:
        clock: the event loop's, in seconds.
        alerts: the variants on which critical alerts stand.
        metrics: counts attempts beyond the first, and those that failed.
        shedding: tells whether the router has more calls than it can take; no variant is asked then.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        alerts: StandingAlerts,
        metrics: RouterMetrics,
        shedding: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._alerts = alerts
        self._metrics = metrics
        self._shedding = shedding

    async def ask(
        self, route: Route, variant: str, packed: bytes, rows: int, *, time_left: float, gone: float
    ) -> Reply:
        """Gives what a variant says of `rows` packed rows, or why it says nothing. Never raises but on cancel.

        Args:
            route: the family's route.
            variant: who was assigned; the rules say nothing here, since they were computed before.
            packed: the rows, one after the other.
            rows: their number.
            time_left: seconds that the caller still has.
            gone: seconds since the call arrived.
        """
        if variant == RULES:
            return _NOBODY
        budget = arm_budget(time_left)
        if not budget:
            return _NO_TIME
        if self._shedding():
            return _SHED
        now = self._clock()
        question = _Question(route, packed, rows, now - gone, now + time_left)
        reply = await self._try(question, variant, now, budget, assigned=True)
        if isinstance(reply, Reply):
            return reply
        return await self._next_arms(question, variant, reply)

    async def _next_arms(self, question: _Question, assigned: str, why: Fallback) -> Reply:
        """Asks the policy's next arms in turn; `why` is what became of the assigned arm."""
        for variant in question.route.policy.fallback_arms:
            now = self._clock()
            budget = arm_budget(question.deadline - now)
            if not budget:
                break
            if variant != assigned:
                self._metrics.extra_attempt(question.route.family.name, variant, AttemptKind.NEXT_ARM)
                reply = await self._try(question, variant, now, budget, assigned=False)
                if isinstance(reply, Reply):
                    return reply._replace(fallback=why)
        return Reply(None, why, "", attempts=tuple(question.attempts))

    async def _try(
        self, question: _Question, variant: str, now: float, budget: float, *, assigned: bool
    ) -> Reply | Fallback:
        """Asks one variant, with the hedge and the retry that it may have."""
        at = self._at(question.route, variant, now)
        if isinstance(at, Fallback):
            return at
        policy = question.route.policy
        strange = _NONE_OUTSIDE if policy.outside_training == "serve" else _outside(question, at.served)
        if len(strange) == question.rows:
            return Fallback.OUT_OF_DISTRIBUTION
        before = len(question.attempts)
        at.pool.retries.called()
        if policy.hedge:
            result, served = await self._hedged(question, at, now, budget)
        else:
            result, served = await at.link.submit(question.packed, question.rows, budget), at.served
            if isinstance(result, Failure):
                self._failed(question, variant, result, now)
        if result is Failure.CONNECTION:
            result, served = await self._again(question, at, now + budget)
        if isinstance(result, Failure):
            return FROM_FAILURE[result]
        if policy.fallback_arms and not _any_usable(question.route, result):
            self._failed(question, variant, Failure.INVALID, now)
            return Fallback.INVALID
        if not assigned and len(question.attempts) == before:
            question.note(variant, Fallback.NONE, now, self._clock())
        return Reply(
            result, Fallback.NONE, served.version, variant, tuple(question.attempts), strange, policy.min_confidence
        )

    def _at(self, route: Route, variant: str, now: float) -> _At | Fallback:
        """Finds the backend that a variant's next question goes to."""
        if route.policy.critical_alert == "rules" and self._alerts.stands(route.family.name, variant):
            return Fallback.ALERT
        pool = pool_of(route, variant)
        if pool is None:
            return Fallback.UNAVAILABLE
        link = pool.choose(now)
        if isinstance(link, Fallback):
            return link
        served = link.served
        return _At(variant, pool, link, served) if served is not None else Fallback.UNAVAILABLE

    async def _again(self, question: _Question, broken: _At, until: float) -> tuple[Result, Served]:
        """Sends a copy elsewhere after a connection broke, once, as far as the allowance goes."""
        pool, variant = broken.pool, broken.variant
        began = self._clock()
        link = pool.choose(began, other_than=broken.link) if pool.retries.left else Fallback.UNAVAILABLE
        if isinstance(link, Fallback) or link.served is None or until - began < SHORTEST_BUDGET_SECONDS:
            return Failure.CONNECTION, broken.served
        pool.retries.spend()
        self._metrics.extra_attempt(question.route.family.name, variant, AttemptKind.RETRY)
        served = link.served
        result = await link.submit(question.packed, question.rows, until - began)
        if isinstance(result, Failure):
            self._failed(question, variant, result, began)
        else:
            question.note(variant, Fallback.NONE, began, self._clock())
        return result, served

    async def _hedged(self, question: _Question, at: _At, now: float, budget: float) -> tuple[Result, Served]:
        """Asks one backend and, once it takes longer than 95 % of its answers do, another one as well."""
        pool = at.pool
        pool.hedges.called()
        first = _Sent(at.link.submit(question.packed, question.rows, budget), at.served, now, hedge=False)
        usual = at.link.guard.latency.p95
        copies = {first.future: first}
        if usual is not None and usual < budget:
            await asyncio.wait(copies, timeout=usual)
            began = self._clock()
            allowed = not first.future.done() and pool.hedges.left and pool.retries.left
            other = pool.choose(began, other_than=at.link) if allowed else None
            if isinstance(other, Link) and other.served is not None:
                pool.hedges.spend()
                pool.retries.spend()
                self._metrics.extra_attempt(question.route.family.name, at.variant, AttemptKind.HEDGE)
                future = other.submit(question.packed, question.rows, now + budget - began)
                copies[future] = _Sent(future, other.served, began, hedge=True)
        return await self._first(question, at.variant, copies)

    async def _first(
        self, question: _Question, variant: str, copies: dict[asyncio.Future[Result], _Sent]
    ) -> tuple[Result, Served]:
        """Gives the first answer among copies, or the last failure."""
        several = len(copies) > 1
        while True:
            done, _ = await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                copy = copies.pop(future)
                result = future.result()
                if not isinstance(result, Failure):
                    if several:
                        question.note(variant, Fallback.NONE, copy.began, self._clock(), hedge=copy.hedge)
                    return result, copy.served
                self._failed(question, variant, result, copy.began, hedge=copy.hedge)
                if not copies:
                    return result, copy.served

    def _failed(
        self, question: _Question, variant: str, failure: Failure, began: float, *, hedge: bool = False
    ) -> None:
        reason = FROM_FAILURE[failure]
        question.note(variant, reason, began, self._clock(), hedge=hedge)
        self._metrics.failed_attempt(question.route.family.name, variant, reason)


def _any_usable(route: Route, values: Values) -> bool:
    low, high = valid_range(route.family.target)
    return any(low <= value <= high for value in values)


def _outside(question: _Question, served: Served) -> frozenset[int]:
    """Gives the rows that do not resemble what the variant was trained on; none when its bento does not say."""
    bounds = served.bounds
    if bounds is None:
        return _NONE_OUTSIDE
    schema = question.route.family.schema
    size = schema.row_bytes
    return frozenset(
        row
        for row in range(question.rows)
        if outside(schema.decode(question.packed[row * size : (row + 1) * size]), bounds)
    )
