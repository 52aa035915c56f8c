"""Refusing calls here when the router refuses most of them, so that it can spend its time on answers.

The adaptive throttling of Google's Site Reliability Engineering book (2016, chapter 21): of the calls of the last
seconds, the router let so many in; a call goes out with a chance such that the router sees 1.6 times that. As soon as
it lets all of that in, more go out. Each family is throttled by itself: calls of critical ones are not refused, so they
never are here either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Final

from services.runtime.errors import ResourceExhausted

SURPLUS: Final = 1.6
OPENING_SURPLUS: Final = 3.0
"""In the place of SURPLUS once no call was refused for a second."""
_QUIET_SECONDS: Final = 1.0
HALF_LIFE_SECONDS: Final = 1.0
_FEWEST: Final = 5.0
"""Refusals, lately, below which nothing is refused here."""


class _Family:
    """What was asked and let in, both fading with time."""

    __slots__ = ("asked", "at", "hint", "let_in", "refused_at")

    def __init__(self, now: float) -> None:
        self.asked = self.let_in = 0.0
        self.at = self.refused_at = now
        self.hint = 0.1

    def fade(self, now: float) -> None:
        factor = math.exp2((self.at - now) / HALF_LIFE_SECONDS)
        self.asked *= factor
        self.let_in *= factor
        self.at = now


class Throttle:
    """The throttle of one client. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float], chance: Random) -> None:
        self._clock = clock
        self._chance = chance
        self._families: dict[str, _Family] = {}
        self.refused = 0
        """Calls that were refused here."""
        self.turned = 0
        """Calls that the router refused."""

    def check(self, family: str) -> ResourceExhausted | None:
        """Gives the error of a call that had better not go out, or None; either way the call is counted."""
        known = self._families.get(family)
        if known is None:
            # Nothing was refused yet: there is nothing to remember.
            return None
        known.fade(self._clock())
        asked, let_in = known.asked, known.let_in
        known.asked += 1.0
        surplus = SURPLUS if known.at - known.refused_at < _QUIET_SECONDS else OPENING_SURPLUS
        if asked - let_in < _FEWEST or self._chance.random() * (asked + 1.0) >= asked - surplus * let_in:
            return None
        self.refused += 1
        return ResourceExhausted("", "the router refuses most calls of this family at the moment", known.hint)

    def let_in(self, family: str) -> None:
        """The router let a call in."""
        known = self._families.get(family)
        if known is not None:
            known.let_in += 1.0
            known.let_in = min(known.let_in, known.asked)
            if known.asked - known.let_in < 0.01:
                # All refusals are forgotten.
                del self._families[family]

    def turned_away(self, family: str, error: ResourceExhausted) -> None:
        """The router refused a call."""
        self.turned += 1
        known = self._families.get(family)
        if known is None:
            known = self._families[family] = _Family(self._clock())
            known.asked = 1.0
        known.hint = error.retry_after
        known.refused_at = self._clock()
