"""How many extra attempts may be made: a fixed share of the calls, so that failing backends are not buried in them."""

from __future__ import annotations

from typing import Final

RETRY_SHARE: Final = 0.1
HEDGE_SHARE: Final = 0.05
_MOST_SAVED: Final = 100.0
"""Extra attempts that quiet times may save up."""


class Allowance:
    """Extra attempts as a share of calls. Begins empty: at any moment spent ≤ share × called, since the very start."""

    __slots__ = ("_saved", "_share")

    def __init__(self, share: float) -> None:
        self._share = share
        self._saved = 0.0

    def called(self) -> None:
        """Notes a call's first attempt."""
        if self._saved < _MOST_SAVED:
            self._saved += self._share

    @property
    def left(self) -> bool:
        """Whether an extra attempt may be made."""
        # Ten tenths must make one in spite of rounding.
        return self._saved >= 1.0 - 1e-9

    def spend(self) -> None:
        """Takes one extra attempt, after `left`."""
        self._saved -= 1.0
