"""Ships the journal to the ledger, at least once and in order; the ledger stores exactly once.

Only what is on stable storage is shipped (the ledger never knows more than the journal), and, while the disk refuses,
what waits in memory. How far the ledger has come stands in the journal's accounts; losing it only makes the same
records travel again. A record that the ledger refuses is found by halving its batch and set aside: it never holds up
the rest. So is what the disk damaged. Segments that were shipped whole are deleted, except the newest ones, from which
a restarted router learns its recent decisions.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from router.frames import MAX_FRAME, Damage, Frame, scan
from router.journal import Journal
from router.segments import NO_BOUND, index_of, segment_path, segments
from services.runtime.cancelling import asked_to_end

_log = structlog.get_logger(__name__)
BATCH_RECORDS: Final = 2000
CHUNK_BYTES: Final = 2 * MAX_FRAME
IDLE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0
KEEP_SEGMENTS: Final = 2
REPORT_SECONDS: Final = 10.0
"""How often the journal's numbers reach the ledger when no records do."""
SECOND_CHANCES: Final = 2
"""How often a record is offered again that the ledger failed on without blaming its content."""
MAX_SUSPECTS: Final = 16
"""Records of one batch refused for no reason of their own, without any accepted, after which the ledger is at fault."""


class Refused(Exception):
    """The ledger took the call and refused the records; the text says why. `definite`: the content is at fault."""

    def __init__(self, reason: str, *, definite: bool) -> None:
        super().__init__(reason)
        self.definite = definite


Ship = Callable[[Sequence[bytes]], Awaitable[int]]
"""Sends payloads to the ledger; returns when each is stored or set aside there, with the number of the latter.

Raises ConnectionError when the ledger is away, Refused when it wants none of them."""


@dataclass(slots=True)
class _Batch:
    """What is to be shipped next: records with their numbers, and where the journal goes on behind them."""

    records: list[tuple[int, bytes]]
    damaged: list[bytes]
    offset: int


class Shipper:
    """Follows a journal on disk and ships it."""

    def __init__(self, journal: Journal, ship: Ship) -> None:
        self._journal = journal
        self._accounts = journal.accounts
        self._ship = ship
        self._shipped_at = 0.0
        self.behind = False
        """Whether the last attempt failed."""

    async def run(self) -> None:
        """Ships until cancelled; backs off while the ledger is away, and reports when there is nothing to ship."""
        pause = IDLE_SECONDS
        while not asked_to_end():
            try:
                moved = await self.step()
                await self._report()
                self.behind, pause = False, IDLE_SECONDS
            except ConnectionError as error:
                if not self.behind:
                    _log.warning("ledger is away; the journal keeps everything", reason=str(error))
                self.behind, moved = True, False
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            except OSError as error:
                _log.error("the journal cannot be read", reason=error.strerror)
                moved, pause = False, LONGEST_PAUSE_SECONDS
            if not moved:
                await asyncio.sleep(pause)

    async def _report(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._shipped_at >= REPORT_SECONDS:
            self._shipped_at = now
            with contextlib.suppress(Refused):
                await self._ship([])

    async def step(self) -> bool:
        """Ships one batch; tells whether there was anything to ship.

        Raises:
            ConnectionError: the ledger did not confirm; the same batch is due again.
            OSError: the journal cannot be read.
        """
        now = self._accounts.now
        # One look for the whole step: a record that becomes stable between two looks would be passed over.
        stable = self._journal.stable
        end = stable.end(now.segment)
        batch = self._next_batch(now.segment, now.offset, end)
        if batch.offset > now.offset:
            await self._settle(batch)
            return True
        if end == NO_BOUND and self._advance(now.segment):
            return True
        held = self._journal.held_frames(BATCH_RECORDS) if stable.whole else []
        if not held:
            return False
        await self._settle(_Batch(held, [], now.offset))
        self._journal.settled()
        return True

    async def drain(self, seconds: float) -> bool:
        """Ships what is left, for at most that long, once nothing commits any more; tells whether all of it went."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.to_thread(self._journal.synchronise)
                while await self.step():
                    pass
        except (TimeoutError, OSError):
            return False
        return True

    def pending_bytes(self) -> int:
        """Bytes of the journal that the ledger has not confirmed yet."""
        total, now = 0, self._accounts.now
        for path in segments(self._journal.folder):
            if index_of(path) >= now.segment:
                total += path.stat().st_size - (now.offset if index_of(path) == now.segment else 0)
        return total

    async def _settle(self, batch: _Batch) -> None:
        """Ships a batch, then writes down that it is done with: the only place where the position moves."""
        known = self._accounts.now.settled
        # Records that were shipped from memory, or written twice after a failed synchronisation, were counted.
        records = [(number, payload) for number, payload in batch.records if number >= known]
        refused = await self._offer([payload for _, payload in records]) if records else 0
        self._shipped_at = asyncio.get_running_loop().time()
        for content in batch.damaged:
            self._journal.rejects.add(content, "damaged on disk")
        now = self._accounts.now
        end = records[-1][0] + 1 if records else now.settled
        missing = end - now.settled - len(records)
        self._accounts.change(
            settled=end,
            offset=batch.offset,
            stored=now.stored + len(records) - refused,
            refused=now.refused + refused,
            missing=now.missing + missing,
        )
        if missing:
            _log.error("records are missing in the journal", records=missing, before=end)
            self._journal.passed_gap(missing)

    async def _offer(self, payloads: Sequence[bytes]) -> int:
        """Ships payloads, less those that the ledger refuses; gives how many were set aside, here or there.

        Raises:
            ConnectionError: the ledger is away, or refuses everything for no reason of the records' own.
        """
        suspects: list[tuple[bytes, Refused]] = []
        aside = accepted = 0
        left = [list(payloads)]
        while left:
            part = left.pop()
            try:
                aside += await self._ship(part)
                accepted += 1
            except Refused as refusal:
                if len(part) > 1:
                    half = len(part) // 2
                    left += [part[half:], part[:half]]
                    continue
                suspects.append((part[0], refusal))
                if not accepted and len(suspects) >= MAX_SUSPECTS and not any(r.definite for _, r in suspects):
                    break
        if suspects and not accepted and not any(reason.definite for _, reason in suspects):
            raise ConnectionError(f"the ledger refuses everything: {suspects[0][1]}")
        for payload, reason in suspects:
            again = None if reason.definite else await self._offer_again(payload)
            if again is None:
                self._journal.rejects.add(payload, f"refused by the ledger: {reason}")
            aside += 1 if again is None else again
        return aside

    async def _offer_again(self, payload: bytes) -> int | None:
        """Gives a record that the ledger failed on another chance; None when it fails again."""
        for _ in range(SECOND_CHANCES):
            await asyncio.sleep(IDLE_SECONDS)
            with contextlib.suppress(Refused):
                return await self._ship([payload])
        return None

    def _next_batch(self, index: int, offset: int, end: int) -> _Batch:
        batch = _Batch([], [], offset)
        try:
            with segment_path(self._journal.folder, index).open("rb") as file:
                whole = min(end, os.fstat(file.fileno()).st_size)
                data = os.pread(file.fileno(), min(CHUNK_BYTES, max(whole - offset, 0)), offset)
        except FileNotFoundError:
            return batch
        at_end = offset + len(data) >= whole
        for part in scan(data):
            match part:
                case Frame():
                    batch.records.append((part.number, part.payload))
                case Damage():
                    if part.end == len(data) and not at_end:
                        # Perhaps a whole frame, of which the chunk holds the beginning only.
                        if part.start > 0:
                            break
                        part = Damage(0, len(data) - MAX_FRAME)  # noqa: PLW2901 - the rest is looked at again
                    batch.damaged.append(data[part.start : part.end])
            batch.offset = offset + part.end
            if len(batch.records) >= BATCH_RECORDS:
                break
        return batch

    def _advance(self, index: int) -> bool:
        """Goes on to the next segment, if there is one, when this one is shipped whole and closed."""
        present = segments(self._journal.folder)
        later = [index_of(path) for path in present if index_of(path) > index]
        if not later:
            return False
        self._accounts.change(segment=min(later), offset=0)
        shipped = [path for path in present[:-KEEP_SEGMENTS] if index_of(path) <= index]
        if shipped:
            try:
                self._journal.drop(shipped)
            except OSError as error:
                _log.warning("shipped segments cannot be removed", reason=error.strerror)
        return True
