"""How long to wait before the next attempt."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

_LARGEST_POWER: Final = 32
"""Beyond this the power of two is over any sensible limit, and a float would overflow at last."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: uniform in [0, min(limit, first × 2^attempt)], in seconds.

    Full jitter spreads the callers of a router that died evenly over the interval, where a fixed delay would bring
    all of them back at the same instant.
    """

    first: float = 0.02
    limit: float = 2.0

    def __post_init__(self) -> None:
        """Refuses delays that cannot be waited for."""
        if not 0 < self.first <= self.limit:
            raise ValueError(f"backoff: first must be over 0 and at most limit, not {self.first} with {self.limit}")

    def delay(self, attempt: int, chance: Random) -> float:
        """Gives the delay in seconds before an attempt, counted from 0 for the first repetition."""
        return chance.random() * min(self.limit, self.first * 2.0 ** min(attempt, _LARGEST_POWER))
