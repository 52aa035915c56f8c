"""The router's journal: an append-only log on disk that holds every decision until the ledger has it.

A record is handed to the operating system before the caller hears its answer (it survives the router's death) and
reaches stable storage by group commit a few milliseconds later (it survives a power cut); only an answer that waited
for that says `durable`. A torn tail is cut off when the journal is opened.

When the disk refuses (full, gone, over the journal's own bound), records wait in bounded memory, from where they are
written when it heals or shipped straight to the ledger. What does not fit there either is lost, and counted: numbers
are given to records before anything else, so a lost one leaves a gap that is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from router.accounts import Accounts, JournalStatus
from router.disk import Disk, LocalDisk, lock, write_all
from router.frames import frame
from router.group_commit import GroupCommit
from router.held import Held
from router.rejects import Rejects
from router.segments import Segment, Stable, Tail, find_tail, first_number, newest, segment_path, segments

__all__ = ["Journal", "newest", "segments"]
_log = structlog.get_logger(__name__)
SEGMENT_BYTES: Final = 8 << 20
MAX_BYTES: Final = 4 << 30
RETRY_SECONDS: Final = 0.5
MAX_HELD_BYTES: Final = 64 << 20
COMMIT_PATIENCE_SECONDS: Final = 0.1
_HEALED_AT_ONCE: Final = 64


class Journal:
    """An open journal. One process at a time: the folder is locked.

    Args:
        folder: the journal's own folder, made when it is not there.
        max_bytes: bound of all segments together; beyond it records wait in memory.
        segment_bytes: from this size on a new segment is begun.
        max_held_bytes: bound of the memory for records that the disk refuses.
        disk: the file system.

    Raises:
        OSError: the folder cannot be had, or another process has it. A disk that is merely full is no error.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = MAX_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        max_held_bytes: int = MAX_HELD_BYTES,
        disk: Disk | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._disk = disk or LocalDisk()
        self._lock = lock(folder)
        self._max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max_bytes // 8)
        present = segments(folder)
        self.accounts = Accounts(folder, self._disk, fresh=not present)
        if not self.accounts.known:
            index, number = first_number(folder)
            self.accounts.change(settled=number, stored=number, segment=index)
        self.rejects = Rejects(folder, self._disk)
        tail = find_tail(folder)
        shipped = self.accounts.now
        if shipped.segment > tail.index:
            # Somebody removed segments: the next one stands where shipping goes on.
            tail = Tail(shipped.segment, 0, b"", tail.next_number)
        if shipped.segment == tail.index and shipped.offset > tail.size:
            self.accounts.change(offset=tail.size)
        self._next = max(tail.next_number, self.accounts.now.settled, self.accounts.now.started)
        self._bytes = sum(path.stat().st_size for path in present) - len(tail.torn)
        self._segment = Segment(tail.index, segment_path(folder, tail.index), -1, tail.size)
        self._unusable = True
        """Whether the segment may not be written any more: it could not be opened, or a synchronisation failed."""
        self._open_tail(tail.torn, present[-3:-1])
        self._held = Held(max_held_bytes)
        # Shared with the committing thread: what is on stable storage, and what is not yet.
        self._durable = (self._segment.index, self._segment.size)
        self._unsynced: deque[tuple[int, int, bytes]] = deque()
        self._names_made, self._names_stable = 1, 0
        self._rolled: deque[Segment] = deque()
        self._commit = GroupCommit(self.synchronise, urgent=self._urgent, failed=self._take_back)

    @property
    def held(self) -> int:
        """Records that wait in memory because the disk refuses them."""
        return self._held.records

    @property
    def lost(self) -> int:
        """Records whose content is gone: neither disk nor memory had room, or the disk damaged them."""
        return self.accounts.now.missing + self._held.lost

    @property
    def status(self) -> JournalStatus:
        """What became of every record."""
        now, lost = self.accounts.now, self._held.lost
        return JournalStatus(
            started=self._next,
            stored=now.stored,
            pending=self._next - now.settled - lost,
            set_aside=now.refused + now.missing + lost,
            missing=now.missing + lost,
            held=self._held.records,
            disk_bytes=self._bytes,
        )

    def append(self, payloads: Sequence[bytes]) -> bool:
        """Hands payloads to the operating system in one write; False when the disk refused and they are held."""
        first, count = self._next, len(payloads)
        self._next += count
        data = frame(first, payloads[0]) if count == 1 else b"".join(map(frame, range(first, first + count), payloads))
        if not self._held:
            try:
                self._write(first, count, data)
            except OSError as error:
                _log.error("the journal cannot be written; records wait in memory", reason=error.strerror)
            else:
                return True
        self._held.add(first, count, data)
        # Where the disk has no room for records there is still this: after a crash they are known to be missing.
        self.accounts.change(started=self._next)
        self._commit.mark()
        return False

    def append_spare(self, payloads: Sequence[bytes]) -> bool:
        """Appends what may be left out, unless the disk refuses or the journal is half full; False when it was."""
        if self._held or self._unusable or self._bytes > self._max_bytes // 2:
            return False
        return self.append(payloads)

    async def committed(self, seconds: float = COMMIT_PATIENCE_SECONDS) -> bool:
        """Waits until everything appended so far is on stable storage.

        Args:
            seconds: how long to wait; a disk that stalls must not cost a caller its answer.

        Returns:
            False when the disk refuses or takes longer.
        """
        return False if self._held else await self._commit.wait(seconds)

    async def run(self) -> None:
        """Commits, begins new segments, and heals when the disk does, until cancelled."""
        async with self._commit.running():
            if self._unusable:
                self._commit.attention.set()
            while True:
                await self._commit.attention.wait()
                self._commit.attention.clear()
                if self._segment.size >= self._segment_bytes and not self._held:
                    with contextlib.suppress(OSError):
                        self._roll()
                await self._heal()

    def synchronise(self) -> OSError | None:
        """Brings everything written so far to stable storage; gives the error when the disk refuses.

        Called by the committing thread, and by tests in its place.
        """
        # The segment is looked at before those that were left behind: one that is left from here on is synchronised
        # as this one.
        segment, unsynced, names = self._segment, len(self._unsynced), self._names_made
        size, rolled = segment.size, list(self._rolled)
        try:
            for old in rolled:
                self._disk.sync(old.descriptor)
            if segment.descriptor >= 0:
                self._disk.sync(segment.descriptor)
            if names > self._names_stable:
                self._disk.sync_folder(self.folder)
                self._names_stable = names
        except OSError as error:
            return error
        for old in rolled:
            if old is not segment:
                self._rolled.remove(old)
                self._disk.close(old.descriptor)
        self._durable = (segment.index, size)
        for _ in range(unsynced):
            self._unsynced.popleft()
        return None

    @property
    def stable(self) -> Stable:
        """What is on stable storage at this moment: one look, because another thread brings more there meanwhile."""
        # In this order: what is not unsynced any more is within the end that is read behind it.
        whole = not self._unsynced
        return Stable(*self._durable, whole=whole)

    def held_frames(self, limit: int) -> list[tuple[int, bytes]]:
        """Gives the oldest records that wait in memory, with their numbers: newer than all that are on disk."""
        return self._held.first(limit)

    def settled(self) -> None:
        """Lets go of records in memory that the ledger has confirmed meanwhile."""
        self._held.drop_before(self.accounts.now.settled)

    def passed_gap(self, records: int) -> None:
        """Notes that `records` missing records are in the accounts now."""
        self._held.lost = max(0, self._held.lost - records)

    def drop(self, paths: Sequence[Path]) -> None:
        """Removes segments that were shipped; the accounts that say so are made stable first.

        Raises:
            OSError: the disk refuses.
        """
        self.accounts.sync()
        for path in paths:
            size = path.stat().st_size
            self._disk.remove(path)
            self._bytes -= size

    def close(self) -> None:
        """Writes what is held if the disk lets it, synchronises and closes."""
        with contextlib.suppress(OSError):
            self._write_held(self._held.records)
        error = self.synchronise()
        if error is not None:
            _log.error("the journal cannot be synchronised", reason=error.strerror)
        if self._held:
            _log.error("the journal closed with records that the disk refused", records=self._held.records)
        self.accounts.change(started=self._next)
        self.accounts.close()
        for segment in (*self._rolled, self._segment):
            if segment.descriptor >= 0:
                self._disk.close(segment.descriptor)
        os.close(self._lock)

    def _open_tail(self, torn: bytes, before: Sequence[Path]) -> None:
        """Opens the newest segment; what a process that was killed left unsynchronised becomes stable first."""
        segment = self._segment
        try:
            for path in before:
                descriptor = self._disk.open(path)
                self._disk.sync(descriptor)
                self._disk.close(descriptor)
            segment.descriptor = self._disk.open(segment.path)
            if torn:
                self.rejects.add(torn, f"torn end of {segment.path.name}")
                self._disk.truncate(segment.descriptor, segment.size)
            self._disk.sync(segment.descriptor)
        except OSError as error:
            _log.error("the journal cannot be opened; records wait in memory", reason=error.strerror)
            return
        self._unusable = False

    def _urgent(self) -> bool:
        return bool(self._held) or self._segment.size >= self._segment_bytes

    def _take_back(self, error: OSError) -> None:
        """After a failed synchronisation nobody knows what is on disk: all of it is written anew, elsewhere."""
        _log.error("the journal cannot be synchronised", reason=error.strerror)
        self._unusable = True
        for segment in (*self._rolled, self._segment):
            whole = min(self.stable.end(segment.index), segment.size)
            self._bytes -= segment.size - whole
            segment.size = whole
            with contextlib.suppress(OSError):
                self._disk.truncate(segment.descriptor, whole)
        while self._rolled:
            self._disk.close(self._rolled.popleft().descriptor)
        while self._unsynced:
            self._held.put_back(*self._unsynced.pop())

    async def _heal(self) -> None:
        while self._held or self._unusable:
            try:
                self._write_held(_HEALED_AT_ONCE)
            except OSError:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                if not self._held:
                    _log.info("the journal writes again")
                await asyncio.sleep(0)

    def _write_held(self, most: int) -> None:
        if self._unusable or self._segment.size >= self._segment_bytes:
            self._roll()
        while self._held and most > 0:
            first, count, data = self._held.oldest()
            self._write(first, count, data)
            self._held.drop_before(first + count)
            most -= 1

    def _write(self, first: int, count: int, data: bytes) -> None:
        """Writes all of `data` or nothing: a write that the disk broke off is cut away again."""
        segment = self._segment
        if self._unusable or self._bytes + len(data) > self._max_bytes:
            raise OSError(0, "the journal is at its bound" if not self._unusable else "no segment can be written")
        try:
            write_all(self._disk, segment.descriptor, data, segment.size)
        except OSError:
            with contextlib.suppress(OSError):
                self._disk.truncate(segment.descriptor, segment.size)
            raise
        self._unsynced.append((first, count, data))
        segment.size += len(data)
        self._bytes += len(data)
        self._commit.mark()

    def _roll(self) -> None:
        """Begins the next segment.

        Raises:
            OSError: the disk refuses; the old one goes on.
        """
        index = self._segment.index + 1
        path = segment_path(self.folder, index)
        descriptor = self._disk.open(path)
        # The committing thread synchronises the old segment once more, then closes it; one that failed is only closed.
        old = self._segment
        if self._unusable:
            if old.descriptor >= 0:
                self._disk.close(old.descriptor)
        else:
            self._rolled.append(old)
        self._segment, self._unusable = Segment(index, path, descriptor), False
        self._names_made += 1
        self._commit.mark()
