"""The router's journal: an append-only log on disk that holds every decision until the ledger has it.

Layout: segments `<first sequence, 20 digits>.journal`, each a run of frames: length (u32) and CRC-32 (u32) of the
payload, little-endian, then the payload. A frame is handed to the operating system before the caller hears its
answer (it survives the router's death) and reaches stable storage by group commit a few milliseconds later (it
survives a power cut). A torn or damaged tail is cut off when the journal is opened.

When the disk refuses (full, gone), frames wait in bounded memory and are written when it heals; what does not fit is
counted, never silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import structlog

_log = structlog.get_logger(__name__)
_HEAD: Final = struct.Struct("<II")
MAX_PAYLOAD: Final = 1 << 20
SEGMENT_BYTES: Final = 8 << 20
COMMIT_SECONDS: Final = 0.005
RETRY_SECONDS: Final = 1.0
MAX_HELD_BYTES: Final = 64 << 20


def frame(payload: bytes) -> bytes:
    """Gives a payload's frame."""
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Gives (offset after the frame, payload) of each whole, undamaged frame at the start of `data`."""
    offset = 0
    while offset + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, offset)
        end = offset + _HEAD.size + length
        if length > MAX_PAYLOAD or end > len(data):
            return
        payload = data[offset + _HEAD.size : end]
        if zlib.crc32(payload) != crc:
            return
        yield end, payload
        offset = end


class Journal:
    """An open journal. One process at a time: the folder is locked.

    Raises:
        OSError: the folder cannot be written, or another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder / "lock")
        last = max(segments(folder), default=None)
        start = _cut_tail(last) if last is not None else 0
        self._path = last if last is not None else folder / _name(0)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = start
        self._index = int(self._path.stem)
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self.lost = 0
        """Frames that neither the disk nor the bounded memory could take."""
        # Shared with the committing thread: what needs stable storage, and who waits for it.
        self._dirty = threading.Event()
        self._marked = False
        self._hurry = threading.Event()
        self._stopping = False
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._rolled: deque[int] = deque()
        self._attention = asyncio.Event()

    @property
    def held(self) -> int:
        """Frames that wait in memory because the disk refuses them."""
        return len(self._held)

    def append(self, payloads: Sequence[bytes]) -> bool:
        """Hands payloads to the operating system in one write; False when the disk refused and they are held."""
        data = frame(payloads[0]) if len(payloads) == 1 else b"".join(map(frame, payloads))
        if self._held:
            self._hold(data, len(payloads))
            return False
        try:
            self._write(data)
        except OSError as error:
            _log.error("journal cannot be written", reason=error.strerror)
            self._hold(data, len(payloads))
            return False
        return True

    async def committed(self) -> bool:
        """Waits until everything appended so far is on stable storage; False when the disk refuses."""
        if self._held:
            return False
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._mark()
        self._hurry.set()
        try:
            await waiter
        except OSError:
            return False
        return True

    async def run(self) -> None:
        """Group commit, until cancelled: one synchronisation every few milliseconds, in a thread of its own.

        The event loop hears of it only when somebody waits or something is to be done: at a thousand calls a second
        its own timers and wake-ups would cost more than the synchronisation.
        """
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._commit_forever, args=(loop,), name="journal", daemon=True)
        thread.start()
        try:
            while True:
                await self._attention.wait()
                self._attention.clear()
                if self._size >= SEGMENT_BYTES:
                    self._roll()
                if self._held:
                    await self._heal()
        finally:
            self._stopping = True
            self._hurry.set()
            self._dirty.set()
            await loop.run_in_executor(None, thread.join)

    def _commit_forever(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            self._dirty.wait()
            self._hurry.wait(COMMIT_SECONDS)
            if self._stopping:
                return
            # In this order: what is written from here on marks the journal again.
            self._hurry.clear()
            self._dirty.clear()
            self._marked = False
            waiting = len(self._waiters)
            error = self._synchronise()
            if waiting or error or self._held or self._size >= SEGMENT_BYTES:
                waiters = [self._waiters.popleft() for _ in range(waiting)]
                loop.call_soon_threadsafe(self._committed, waiters, error)

    def _synchronise(self) -> OSError | None:
        """Brings everything written so far to stable storage; a segment that was left behind is closed after it."""
        try:
            while self._rolled:
                os.fdatasync(self._rolled[0])
                os.close(self._rolled.popleft())
            os.fdatasync(self._fd)
        except OSError as error:
            return error
        return None

    def _committed(self, waiters: Sequence[asyncio.Future[None]], error: OSError | None) -> None:
        if error is not None:
            _log.error("journal cannot be synchronised", reason=error.strerror)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error) if error else waiter.set_result(None)
        self._attention.set()

    def _mark(self) -> None:
        # A plain flag first: setting an event that is set costs a lock each time.
        if not self._marked:
            self._marked = True
            self._dirty.set()

    async def _heal(self) -> None:
        while self._held:
            try:
                while self._held:
                    self._write(self._held[0])
                    self._held_bytes -= len(self._held.popleft())
                _log.info("journal writes again")
            except OSError:
                await asyncio.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Writes what is held if the disk lets it, synchronises and closes."""
        with contextlib.suppress(OSError):
            while self._held:
                self._write(self._held[0])
                self._held.popleft()
            error = self._synchronise()
            if error is not None:
                _log.error("journal cannot be synchronised", reason=error.strerror)
        if self._held:
            _log.error("journal closed with frames that the disk refused", frames=len(self._held))
        os.close(self._fd)
        os.close(self._lock)

    def _hold(self, data: bytes, count: int) -> None:
        if self._held_bytes + len(data) > MAX_HELD_BYTES:
            self.lost += count
        else:
            self._held.append(data)
            self._held_bytes += len(data)
        self._mark()

    def _write(self, data: bytes) -> None:
        """Writes all of `data` or nothing: a write that the disk broke off is cut away again."""
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)
        self._mark()

    def _roll(self) -> None:
        path = self.folder / _name(self._index + 1)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            _log.error("journal cannot start a segment", reason=error.strerror)
            return
        # The committing thread synchronises the old segment once more, then closes it.
        self._rolled.append(self._fd)
        self._fd, self._path, self._size, self._index = fd, path, 0, self._index + 1
        self._mark()


def segments(folder: Path) -> list[Path]:
    """Lists a journal's segments, oldest first."""
    return sorted(folder.glob("*.journal"))


def newest(folder: Path, limit: int) -> list[bytes]:
    """Gives the newest payloads on disk, at most `limit`, oldest first."""
    found: deque[bytes] = deque(maxlen=limit)
    for path in segments(folder)[-2:]:
        found.extend(payload for _, payload in frames(path.read_bytes()))
    return list(found)


def _name(index: int) -> str:
    return f"{index:020d}.journal"


def _cut_tail(path: Path) -> int:
    """Cuts what is not a whole frame off the end of the newest segment; gives the size that remains."""
    data = path.read_bytes()
    good = 0
    for end, _ in frames(data):
        good = end
    if good < len(data):
        _log.warning("journal tail cut off", segment=path.name, bytes=len(data) - good)
        os.truncate(path, good)
    return good


def _lock(path: Path) -> int:
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise OSError(f"{path.parent} is in use by another router: give each router a name of its own") from None
    return fd
