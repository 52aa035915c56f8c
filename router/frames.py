"""The journal's frames: how records stand on disk, and how they are found again beside damage.

A frame is a head (magic, length of the payload, CRC-32 of number and payload, the record's number; little-endian) and
the payload. Numbers rise by one a record for as long as the journal lives, so that a record that is missing is known
to be missing. The magic is no UTF-8, so no text inside a record looks like a head; behind damage reading goes on at
the next magic whose frame is whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAGIC: Final = b"\xa5TJ\x02"
_HEAD: Final = struct.Struct("<4sIIQ")
_NUMBER: Final = struct.Struct("<Q")
MAX_PAYLOAD: Final = 1 << 20
MAX_FRAME: Final = _HEAD.size + MAX_PAYLOAD


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole record; `end` is the offset after it in what was scanned."""

    number: int
    payload: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no whole frame."""

    start: int
    end: int


def frame(number: int, payload: bytes) -> bytes:
    """Gives the frame of record `number`."""
    return _HEAD.pack(MAGIC, len(payload), _crc(number, payload), number) + payload


def scan(data: bytes) -> Iterator[Frame | Damage]:
    """Gives what `data` holds, in order and without a gap: whole frames, and the damage between and behind them."""
    offset = 0
    while offset < len(data):
        found = _frame_at(data, offset)
        if found is not None:
            yield found
            offset = found.end
            continue
        after = _next_frame(data, offset + 1)
        yield Damage(offset, after)
        offset = after


def head_number(data: bytes) -> int | None:
    """Gives the number that the head at the start of damaged bytes claims; None when there is no whole head."""
    if len(data) < _HEAD.size:
        return None
    magic, _, _, number = _HEAD.unpack_from(data)
    return int(number) if magic == MAGIC else None


def _frame_at(data: bytes, offset: int) -> Frame | None:
    if offset + _HEAD.size > len(data):
        return None
    magic, length, crc, number = _HEAD.unpack_from(data, offset)
    end = offset + _HEAD.size + length
    if magic != MAGIC or length > MAX_PAYLOAD or end > len(data):
        return None
    payload = data[offset + _HEAD.size : end]
    return Frame(number, payload, end) if _crc(number, payload) == crc else None


def _next_frame(data: bytes, start: int) -> int:
    """Gives the offset of the next whole frame, or the end."""
    while (start := data.find(MAGIC, start)) >= 0:
        if _frame_at(data, start) is not None:
            return start
        start += 1
    return len(data)


def _crc(number: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_NUMBER.pack(number)))
