"""Asks a variant for the values of rows that travel together, inside its share of the caller's deadline."""

from __future__ import annotations

from typing import Final

from bentos.family import RULES
from router.answers import Reply
from router.backends.link import Failure
from router.fallback import Fallback, arm_budget
from router.routing import Route, pool_of

_FROM_FAILURE: Final = {
    Failure.UNAVAILABLE: Fallback.UNAVAILABLE,
    Failure.CONNECTION: Fallback.CONNECTION,
    Failure.TIMEOUT: Fallback.TIMEOUT,
    Failure.ERROR: Fallback.ERROR,
    Failure.INVALID: Fallback.INVALID,
    Failure.OVERLOADED: Fallback.OVERLOADED,
}


async def ask(route: Route, variant: str, packed: bytes, rows: int, time_left: float) -> Reply:
    """Gives what a variant says of `rows` packed rows, or why it says nothing. Never raises but on cancel.

    Args:
        route: the family's route.
        variant: who is asked; the rules say nothing here, since they were computed before.
        packed: the rows, one after the other.
        rows: their number.
        time_left: seconds that the caller still has.
    """
    if variant == RULES:
        return Reply(None, Fallback.NONE, "")
    budget = arm_budget(time_left)
    if not budget:
        return Reply(None, Fallback.NO_TIME, "")
    pool = pool_of(route, variant)
    link = pool.pick() if pool is not None else None
    served = link.served if link is not None else None
    if link is None or served is None:
        return Reply(None, Fallback.UNAVAILABLE, "")
    result = await link.submit(packed, rows, budget)
    if isinstance(result, Failure):
        return Reply(None, _FROM_FAILURE[result], "")
    return Reply(result, Fallback.NONE, served.version)
