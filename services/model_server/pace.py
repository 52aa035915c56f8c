"""How long a batch will likely take, learned from those that ran: a moving mean for each power of two of rows."""

from __future__ import annotations

from typing import Final

_WEIGHT: Final = 0.1
"""Weight of the newest run: about the last twenty count."""
_SIZES: Final = 32


class Pace:
    """Estimates seconds from rows. A size that never ran is scaled up from the next smaller one that did."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: list[float] = [0.0] * _SIZES

    def learn(self, rows: int, seconds: float) -> None:
        """Takes in one run."""
        size = rows.bit_length()
        known = self._seconds[size]
        self._seconds[size] = known + _WEIGHT * (seconds - known) if known else seconds

    def estimate(self, rows: int) -> float:
        """Gives the expected seconds; 0 while nothing of that size or smaller has run."""
        size = rows.bit_length()
        known = self._seconds[size]
        if known:
            return known
        for smaller in range(size - 1, -1, -1):
            if self._seconds[smaller]:
                # Twice the rows take at most about twice the time: the fixed part of a run is paid once.
                return self._seconds[smaller] * float(1 << (size - smaller))
        return 0.0
