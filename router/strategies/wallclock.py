"""Blocks of time: which block an instant belongs to, and when the block's present run began on the real time line.

A block is named by a number that follows from the local wall clock alone, so a repeated hour falls into the same
blocks twice and a skipped hour's blocks never come. Everything here is a function of the whole second: offsets of
zones, windows and burn-ins are whole seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Protocol
from zoneinfo import ZoneInfo

DAY_SECONDS: Final = 86_400
# The years 2 to 9998: outside them the nearest of these instants tells the zone's offset.
EARLIEST: Final = -62_104_060_800
LATEST: Final = 253_370_764_800


class Blocks(Protocol):
    """How local time is cut. Local seconds are counted from 1970-01-01T00:00 on the wall clock."""

    def number(self, local: int) -> int:
        """Gives the number of the block that holds a local second."""
        ...

    def start(self, number: int) -> int:
        """Gives the first local second of a block."""
        ...


@dataclass(frozen=True, slots=True)
class Windows:
    """Blocks of equal length, in seconds, the first one beginning `offset` seconds after the epoch."""

    length: int
    offset: int

    def number(self, local: int) -> int:
        """Gives the number of the block that holds a local second."""
        return (local - self.offset) // self.length

    def start(self, number: int) -> int:
        """Gives the first local second of a block."""
        return number * self.length + self.offset


@dataclass(frozen=True, slots=True)
class DailySlots:
    """Blocks that begin at fixed local times of every day, the first one at midnight."""

    starts: tuple[int, ...]

    def number(self, local: int) -> int:
        """Gives the number of the block: days since 1970-01-01 × slots a day + slot."""
        day, second = divmod(local, DAY_SECONDS)
        return day * len(self.starts) + bisect_right(self.starts, second) - 1

    def start(self, number: int) -> int:
        """Gives the first local second of a block."""
        day, slot = divmod(number, len(self.starts))
        return day * DAY_SECONDS + self.starts[slot]


def offsets(zone: ZoneInfo | None) -> Callable[[int], int]:
    """Gives the function from an instant to local time minus UTC, both in whole seconds; without a zone it is UTC's."""
    if zone is None:
        return _no_offset

    @lru_cache(maxsize=64)
    def offset(second: int) -> int:
        shift = datetime.fromtimestamp(min(max(second, EARLIEST), LATEST), zone).utcoffset()
        assert shift is not None
        return shift.days * DAY_SECONDS + shift.seconds

    return offset


def _no_offset(second: int) -> int:  # noqa: ARG001 - one signature for all zones
    return 0


@dataclass(frozen=True, slots=True)
class WallClock:
    """Blocks by a wall clock."""

    blocks: Blocks
    offset: Callable[[int], int]
    """Local time minus UTC, in seconds, at an instant in seconds since 1970-01-01T00:00Z."""

    def block(self, second: int) -> int:
        """Gives the number of the block that holds an instant, in seconds since 1970-01-01T00:00Z."""
        return self.blocks.number(second + self.offset(second))

    def run_start(self, second: int) -> int:
        """Gives the first second of the unbroken run of its block that holds an instant."""
        number = self.block(second)
        while True:
            start = self._start_under_one_offset(second, number)
            # A clock set back inside a block repeats part of it: the run goes on.
            if self.block(start - 1) != number:
                return start
            second = start - 1

    def _start_under_one_offset(self, second: int, number: int) -> int:
        """Gives the first second up to `second` with the same block and the same offset."""
        offset = self.offset(second)
        start = self.blocks.start(number) - offset
        if self.offset(start) == offset:
            return start
        before = start
        after = second
        while after - before > 1:
            middle = (before + after) // 2
            if self.offset(middle) == offset:
                after = middle
            else:
                before = middle
        return after
