"""Rate limits of tenants: token buckets, all of which must have enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """So many decisions a period, refilled evenly; the whole number may be used at once."""

    decisions: int
    seconds: float


class RateLimits:
    """The buckets of one tenant. Instants are in seconds of any monotonic clock.

    Laws, held by tests/unit/test_resilience_rate_limits.py: within any stretch of t seconds at most
    decisions × (1 + t / seconds) are taken, for every rate; what is refused takes nothing; after the wait that a
    refusal names, the same request is taken if nobody else came.
    """

    __slots__ = ("_filled_at", "_left", "_rates")

    def __init__(self, rates: Sequence[Rate], now: float) -> None:
        self._rates = tuple(rates)
        self._left = [float(rate.decisions) for rate in rates]
        self._filled_at = now

    def take(self, decisions: int, now: float) -> float:
        """Takes decisions from every bucket and gives 0, or takes none and gives the seconds to wait.

        More than a bucket ever holds can never be taken: the wait is infinite then. Without any rate all is taken.
        """
        elapsed = max(now - self._filled_at, 0.0)
        self._filled_at = max(now, self._filled_at)
        wait = 0.0
        for index, rate in enumerate(self._rates):
            left = min(self._left[index] + elapsed * rate.decisions / rate.seconds, float(rate.decisions))
            self._left[index] = left
            if decisions > rate.decisions:
                wait = float("inf")
            elif left < decisions:
                # A hair more, so that rounding cannot have the caller come a moment too early.
                wait = max(wait, (decisions - left) * rate.seconds / rate.decisions * (1 + 1e-9) + 1e-6)
        if wait == 0.0:
            for index in range(len(self._left)):
                self._left[index] -= decisions
        return wait

    def give_back(self, decisions: int) -> None:
        """Returns decisions that were taken and then not made."""
        for index, rate in enumerate(self._rates):
            self._left[index] = min(self._left[index] + decisions, float(rate.decisions))
