"""Keeps traffic at a rate."""

from __future__ import annotations

import asyncio
from typing import Final

_CATCH_UP_SECONDS: Final = 0.1


class Pace:
    """Lets `rate` predictions a second pass; after a hold-up it catches up a tenth of a second and no more."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next = 0.0

    async def wait(self, predictions: int) -> None:
        """Waits until so many predictions may be asked for."""
        now = asyncio.get_running_loop().time()
        slot = max(self._next, now - _CATCH_UP_SECONDS)
        self._next = slot + predictions / self._rate
        if slot > now:
            await asyncio.sleep(slot - now)
