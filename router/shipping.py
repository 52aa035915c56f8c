"""Ships the journal to the ledger, at least once and in order; the ledger stores exactly once.

The position up to which the ledger has confirmed everything is kept beside the journal. Losing it only makes the same
records travel again. Segments that were shipped whole are deleted, except the newest ones, from which a restarted
router learns its recent decisions.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from router.journal import Journal, frames, segments

_log = structlog.get_logger(__name__)
BATCH_RECORDS: Final = 2000
CHUNK_BYTES: Final = 2 << 20
IDLE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0
KEEP_SEGMENTS: Final = 2
_POSITION: Final = "shipped.json"

Ship = Callable[[Sequence[bytes]], Awaitable[None]]
"""Sends payloads to the ledger; returns when they are stored and raises ConnectionError otherwise."""


class Shipper:
    """Follows a journal on disk and ships it."""

    def __init__(self, journal: Journal, ship: Ship) -> None:
        self._journal = journal
        self._ship = ship
        self._segment, self._offset = _read_position(journal.folder)
        self.behind = False
        """Whether the last attempt failed."""

    async def run(self) -> None:
        """Ships until cancelled; backs off while the ledger is away."""
        pause = IDLE_SECONDS
        while True:
            try:
                moved = await self.step()
                self.behind, pause = False, IDLE_SECONDS
            except ConnectionError as error:
                if not self.behind:
                    _log.warning("ledger is away; the journal keeps everything", reason=str(error))
                self.behind, moved = True, False
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            if not moved:
                await asyncio.sleep(pause)

    async def step(self) -> bool:
        """Ships one batch; tells whether there was anything to ship.

        Raises:
            ConnectionError: the ledger did not confirm; the same batch is due again.
        """
        batch, end = self._next_batch()
        if not batch:
            return self._advance()
        await self._ship(batch)
        self._offset = end
        self._save()
        return True

    async def drain(self, seconds: float) -> bool:
        """Ships what is left, for at most that long; tells whether all of it went."""
        try:
            async with asyncio.timeout(seconds):
                while await self.step():
                    pass
        except (TimeoutError, ConnectionError):
            return False
        return True

    def pending_bytes(self) -> int:
        """Bytes of the journal that the ledger has not confirmed yet."""
        total = 0
        for path in segments(self._journal.folder):
            index = int(path.stem)
            if index >= self._segment:
                total += path.stat().st_size - (self._offset if index == self._segment else 0)
        return total

    def _next_batch(self) -> tuple[list[bytes], int]:
        path = self._journal.folder / f"{self._segment:020d}.journal"
        try:
            with path.open("rb") as file:
                data = os.pread(file.fileno(), CHUNK_BYTES, self._offset)
        except FileNotFoundError:
            return [], self._offset
        batch, end = [], self._offset
        for after, payload in frames(data):
            batch.append(payload)
            end = self._offset + after
            if len(batch) >= BATCH_RECORDS:
                break
        return batch, end

    def _advance(self) -> bool:
        """Goes on to the next segment when this one is shipped whole and closed."""
        later = [int(path.stem) for path in segments(self._journal.folder) if int(path.stem) > self._segment]
        if not later:
            return False
        self._segment, self._offset = min(later), 0
        self._save()
        for path in segments(self._journal.folder)[:-KEEP_SEGMENTS]:
            if int(path.stem) < self._segment:
                path.unlink(missing_ok=True)
        return True

    def _save(self) -> None:
        target = self._journal.folder / _POSITION
        scratch = target.with_suffix(".new")
        try:
            scratch.write_text(json.dumps({"segment": self._segment, "offset": self._offset}))
            scratch.replace(target)
        except OSError as error:
            _log.warning("shipping position cannot be saved; records may travel again", reason=error.strerror)


def _read_position(folder: Path) -> tuple[int, int]:
    try:
        position = json.loads((folder / _POSITION).read_text())
        return int(position["segment"]), int(position["offset"])
    except (OSError, ValueError, KeyError, TypeError):
        oldest = min((int(path.stem) for path in segments(folder)), default=0)
        return oldest, 0
