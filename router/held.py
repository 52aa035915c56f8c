"""Records that wait in bounded memory because the disk refuses them, by number."""

from __future__ import annotations

from collections import deque
from typing import Final

from router.frames import Frame, scan

_Entry = tuple[int, int, bytes]
"""First number, records, frames."""


class Held:
    """A queue in the order of the numbers. Over the bound a record is lost, and counted."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes: Final = max_bytes
        self._entries: deque[_Entry] = deque()
        self._bytes = 0
        self.records = 0
        self.lost = 0
        """Records that did not fit and that the accounts do not know yet."""

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._entries)

    def add(self, first: int, count: int, data: bytes) -> None:
        """Takes records that are newer than all others, or counts them as lost."""
        if self._bytes + len(data) > self._max_bytes:
            self.lost += count
        else:
            self._entries.append((first, count, data))
            self._bytes += len(data)
            self.records += count

    def put_back(self, first: int, count: int, data: bytes) -> None:
        """Takes records that are older than all others: they were in memory anyhow, so no bound holds."""
        self._entries.appendleft((first, count, data))
        self._bytes += len(data)
        self.records += count

    def oldest(self) -> _Entry:
        """Gives the oldest records that were added together."""
        return self._entries[0]

    def first(self, limit: int) -> list[tuple[int, bytes]]:
        """Gives the oldest records with their numbers, `limit` or a few more."""
        found: list[tuple[int, bytes]] = []
        for _, _, data in self._entries:
            found += [(part.number, part.payload) for part in scan(data) if isinstance(part, Frame)]
            if len(found) >= limit:
                break
        return found

    def drop_before(self, number: int) -> None:
        """Lets go of entries whose records all have lower numbers."""
        while self._entries and self._entries[0][0] + self._entries[0][1] <= number:
            _, count, data = self._entries.popleft()
            self._bytes -= len(data)
            self.records -= count
