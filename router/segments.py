"""The files of a journal: segments named by their index, what is in them, and where the newest whole record ends."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from router.frames import Damage, Frame, head_number, scan

SUFFIX: Final = ".segment"
NO_BOUND: Final = 1 << 62


@dataclass(slots=True)
class Segment:
    """An open segment. `size` is where the next frame goes; a descriptor of −1 means that it could not be opened."""

    index: int
    path: Path
    descriptor: int
    size: int = 0


class Stable(NamedTuple):
    """What of a journal is on stable storage: all older segments, and of the newest one its first bytes."""

    newest: int
    """Index of the newest segment that anything of is stable."""
    size: int
    whole: bool
    """Whether that is everything that was written."""

    def end(self, index: int) -> int:
        """Gives the offset up to which a segment is stable; an older one has no bound."""
        if index == self.newest:
            return self.size
        return NO_BOUND if index < self.newest else 0


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a journal on disk."""

    index: int
    """The newest segment; 0 when there is none."""
    size: int
    """Where its last whole record ends."""
    torn: bytes
    """What stands behind that."""
    next_number: int
    """Above every number seen, the torn one's included: it may have been promised to somebody."""


def segment_path(folder: Path, index: int) -> Path:
    """Names a segment."""
    return folder / f"{index:020d}{SUFFIX}"


def segments(folder: Path) -> list[Path]:
    """Lists a journal's segments, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def index_of(path: Path) -> int:
    """Gives a segment's index."""
    return int(path.stem)


def find_tail(folder: Path) -> Tail:
    """Reads the newest segments, back to one that holds a record.

    Raises:
        OSError: a segment cannot be read.
    """
    index, size, torn, last = 0, 0, b"", -1
    for place, path in enumerate(reversed(segments(folder))):
        data = path.read_bytes()
        end = 0
        for part in scan(data):
            if isinstance(part, Frame):
                end, last = part.end, part.number
        if place == 0:
            index, size, torn = index_of(path), end, data[end:]
        if last >= 0:
            break
    # Only the very next number is believed: it stands in damaged bytes.
    return Tail(index, size, torn, last + 2 if torn and head_number(torn) == last + 1 else last + 1)


def first_number(folder: Path) -> tuple[int, int]:
    """Gives the index of the oldest segment and the number of the first record on disk; zeros without any."""
    present = segments(folder)
    for path in present:
        for part in scan(path.read_bytes()):
            if isinstance(part, Frame):
                return index_of(present[0]), part.number
    return (index_of(present[0]) if present else 0), 0


def newest(folder: Path, limit: int) -> list[bytes]:
    """Gives the newest payloads on disk, at most `limit`, oldest first."""
    found: deque[bytes] = deque(maxlen=limit)
    for path in segments(folder)[-2:]:
        found.extend(part.payload for part in scan(path.read_bytes()) if not isinstance(part, Damage))
    return list(found)
