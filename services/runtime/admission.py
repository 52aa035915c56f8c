"""Who is let in when there is more work than a server can do: calls of critical families always, others as room allows.

The room of ordinary calls follows how late the event loop is. A timer asks for the loop every 10 ms; when even the
promptest of ten such requests came over 3 ms late, work queues on the loop for good (CoDel's observation: a queue that
never empties is the bad one; Nichols and Jacobson 2012), and the room that is in use shrinks by a fifth; else it grows
by an eighth, up to the configured limit. Refusing costs a fraction of answering, but not nothing: hence the hint to
come back later, which is set so that refusals stay under a twentieth of what is answered, if those who are refused heed
it.

Laws, held by tests/unit/test_admission.py: a critical call is never refused; ordinary calls under way never exceed the
limit; the room never leaves [LOWEST_ROOM, limit]; hints stay within [SHORTEST_HINT, LONGEST_HINT].
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

TICK_SECONDS: Final = 0.01
_TICKS: Final = 10
LATE_SECONDS: Final = 0.003
VERY_LATE_SECONDS: Final = 0.05
"""So late the loop may be before critical calls are answered without asking a variant."""
VERY_LATE_TICKS: Final = 3
LOWEST_ROOM: Final = 16
SHORTEST_HINT: Final = 0.1
LONGEST_HINT: Final = 5.0
_REFUSED_SHARE: Final = 0.05
_RELIEF: Final = 0.97


class Admission:
    """Counts the calls under way on a server and refuses ordinary ones over the room there is.

    Args:
        limit: calls under way at most; with as many critical ones under way, `shedding` asks to answer these at once.
        chance: numbers in [0, 1), to spread those who come back.
    """

    __slots__ = (
        "_admitted",
        "_chance",
        "_critical_under_way",
        "_hint",
        "_least_late",
        "_peak",
        "_refused",
        "_room",
        "_ticks",
        "_very_late",
        "limit",
        "under_way",
    )

    def __init__(self, limit: int, chance: Callable[[], float] = lambda: 0.5) -> None:
        self.limit = limit
        self.under_way = 0
        """Ordinary calls under way."""
        self._chance = chance
        self._critical_under_way = 0
        self._room = float(limit)
        self._peak = 0
        self._ticks = 0
        self._least_late = float("inf")
        self._very_late = 0
        self._hint = SHORTEST_HINT
        self._admitted = 0
        self._refused = 0

    @property
    def room(self) -> int:
        """Ordinary calls that may be under way now."""
        return int(self._room)

    @property
    def shedding(self) -> bool:
        """Whether calls that were let in had better be answered at once, without waiting for anything."""
        return self._very_late >= VERY_LATE_TICKS or self._critical_under_way > self.limit

    def enter(self, *, critical: bool = False) -> float:
        """Lets a call in (0), or refuses it: then gives the seconds after which it may come again."""
        if critical:
            self._critical_under_way += 1
            return 0.0
        if self.under_way >= self._room:
            self._refused += 1
            return self._hint * (0.5 + self._chance())
        self.under_way += 1
        self._admitted += 1
        self._peak = max(self._peak, self.under_way)
        return 0.0

    def leave(self, *, critical: bool = False) -> None:
        """Takes note of the end of a call that was let in."""
        if critical:
            self._critical_under_way -= 1
        else:
            self.under_way -= 1

    def tick(self, late: float) -> None:
        """Notes how late the loop was, in seconds."""
        self._least_late = min(self._least_late, late)
        # One late tick is a pause of the process (an import, a collection); several in a row are load.
        self._very_late = self._very_late + 1 if late > VERY_LATE_SECONDS else 0
        self._ticks += 1
        if self._ticks >= _TICKS:
            self._adapt()

    def _adapt(self) -> None:
        if self._least_late > LATE_SECONDS:
            lowest = float(min(LOWEST_ROOM, self.limit))
            # A loop that is late with few calls under way is kept from running by others; refusing would not help. Of
            # room that nobody uses, twice what is used is left, so that it need not shrink step by step.
            if self._peak > lowest:
                self._room = max(min(self._room, 2.0 * self._peak) * 0.8, lowest)
        else:
            self._room = min(self._room * 1.125 + 1, float(self.limit))
        allowed = max(_REFUSED_SHARE * self._admitted, 1.0)
        # Slowly down: those who heed a hint are not heard of for as long as it says.
        pressure = min(max(self._refused / allowed, _RELIEF), 2.0)
        self._hint = min(max(self._hint * pressure, SHORTEST_HINT), LONGEST_HINT)
        self._ticks = self._admitted = self._refused = 0
        self._peak = self.under_way
        self._least_late = float("inf")


@contextlib.asynccontextmanager
async def watching(admission: Admission) -> AsyncIterator[None]:
    """Tells an admission how late the event loop is, until the block ends."""
    loop = asyncio.get_running_loop()
    due = loop.time() + TICK_SECONDS
    timer = None

    def tick() -> None:
        nonlocal due, timer
        now = loop.time()
        admission.tick(max(now - due, 0.0))
        due = now + TICK_SECONDS
        timer = loop.call_at(due, tick)

    timer = loop.call_at(due, tick)
    try:
        yield
    finally:
        timer.cancel()


def first_text(raw: bytes) -> bytes:
    """Gives field 1 of a serialized message when it stands first, as serializers write it, and is a short text.

    Enough to know a call's family without decoding the call; b"" when it is not so.
    """
    if len(raw) > 2 and raw[0] == 0x0A and raw[1] < 0x80:
        return raw[2 : 2 + raw[1]]
    return b""
