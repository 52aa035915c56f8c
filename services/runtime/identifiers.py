"""Decision ids: UUIDs of version 7 (RFC 9562), which sort by time, and the check of callers' own ids."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from services.runtime.errors import InvalidArgument

_VARIANT: Final = 0b10 << 62
_COUNTERS: Final = 4096
"""Ids that one millisecond has room for."""
_COUNTER_TEXTS: Final = tuple(f"{counter:03x}" for counter in range(_COUNTERS))
MAX_ID: Final = 128
MAX_TEXT: Final = 1024
_ID: Final = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


class Uuid7Source:
    """Makes UUIDv7 texts, strictly rising within this process (RFC 9562 §6.2, method 1); see `uuid7_source`."""

    __slots__ = ("_counter", "_last_ms", "_now_ms", "_prefix", "_random_bits")

    def __init__(self, now_ms: Callable[[], int], random_bits: Callable[[int], int]) -> None:
        self._now_ms = now_ms
        self._random_bits = random_bits
        self._last_ms = 0
        self._counter = 0
        self._prefix = ""

    def __call__(self) -> str:
        """Makes one."""
        counter = self._take(1)
        tail = f"{_VARIANT | self._random_bits(62):016x}"
        return f"{self._prefix}{counter:03x}-{tail[:4]}-{tail[4:]}"

    def many(self, count: int) -> list[str]:
        """Makes `count` at once, rising: the clock is read once, and 14 of the 62 random bits are shared by all."""
        made: list[str] = []
        while (wanted := min(count - len(made), _COUNTERS)) > 0:
            first = self._take(wanted)
            prefix, fourth = self._prefix, f"{0b10 << 14 | self._random_bits(14):04x}"
            tails = f"{self._random_bits(48 * wanted):0{12 * wanted}x}"
            made += [
                f"{prefix}{counter}-{fourth}-{tails[at : at + 12]}"
                for counter, at in zip(_COUNTER_TEXTS[first : first + wanted], range(0, 12 * wanted, 12), strict=True)
            ]
        return made

    def _take(self, count: int) -> int:
        """Takes that many counters of one millisecond and gives the first."""
        ms = self._now_ms()
        first = self._random_bits(11) if ms > self._last_ms else self._counter + 1
        ms = max(ms, self._last_ms)
        if first + count > _COUNTERS:
            # The clock stands still or went back, or the batch is long: borrow the next millisecond.
            ms, first = ms + 1, 0
        if ms != self._last_ms:
            self._last_ms = ms
            self._prefix = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7"
        self._counter = first + count - 1
        return first


def uuid7_source(now_ms: Callable[[], int], random_bits: Callable[[int], int]) -> Uuid7Source:
    """Gives a source of UUIDv7 texts.

    Args:
        now_ms: milliseconds since 1970-01-01T00:00Z.
        random_bits: gives a random integer of that many bits.
    """
    return Uuid7Source(now_ms, random_bits)


def is_id(decision_id: str) -> bool:
    """Tells whether `check_decision_id` takes an id."""
    return _ID.fullmatch(decision_id) is not None


def check_decision_id(decision_id: str) -> None:
    """Refuses an id that is not 1 to 128 characters of [A-Za-z0-9._:-].

    Raises:
        InvalidArgument: names decision_id.
    """
    if not is_id(decision_id):
        raise InvalidArgument("decision_id", f"decision_id must be 1 to {MAX_ID} characters of [A-Za-z0-9._:-]")


def check_text(field: str, text: str) -> None:
    """Refuses a text of over 1 KiB in UTF-8.

    Raises:
        InvalidArgument: names the field.
    """
    if len(text) > MAX_TEXT or len(text.encode()) > MAX_TEXT:
        raise InvalidArgument(field, f"{field} must be at most {MAX_TEXT} bytes")


def check_stored_text(field: str, text: str) -> None:
    """Refuses a text of over 1 KiB in UTF-8, and one with a NUL, which PostgreSQL neither stores nor looks for.

    Raises:
        InvalidArgument: names the field.
    """
    check_text(field, text)
    if "\0" in text:
        raise InvalidArgument(field, f"{field} must not hold NUL characters")
