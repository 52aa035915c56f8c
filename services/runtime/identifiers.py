"""Decision ids: UUIDs of version 7 (RFC 9562), which sort by time, and the check of callers' own ids."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from services.runtime.errors import InvalidArgument

_VARIANT: Final = 0b10 << 62
MAX_ID: Final = 128
MAX_TEXT: Final = 1024
_ID: Final = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


def uuid7_source(now_ms: Callable[[], int], random_bits: Callable[[int], int]) -> Callable[[], str]:
    """Gives a function that makes UUIDv7 texts, strictly rising within this process (RFC 9562 §6.2, method 1).

    Args:
        now_ms: milliseconds since 1970-01-01T00:00Z.
        random_bits: gives a random integer of that many bits.
    """
    last_ms = 0
    counter = 0
    prefix = ""

    def make() -> str:
        nonlocal last_ms, counter, prefix
        ms = now_ms()
        if ms > last_ms:
            last_ms, counter = ms, random_bits(11)
            prefix = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7"
        else:
            # The clock stands still or went back: count on; after 4 096 in one millisecond borrow the next one.
            counter += 1
            if counter > 0xFFF:
                last_ms, counter = last_ms + 1, 0
                prefix = f"{last_ms >> 16:08x}-{last_ms & 0xFFFF:04x}-7"
        tail = f"{_VARIANT | random_bits(62):016x}"
        return f"{prefix}{counter:03x}-{tail[:4]}-{tail[4:]}"

    return make


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
