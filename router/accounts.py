"""What became of every record of a journal, in a small file that is overwritten in place.

Two slots are written in turn, each with a CRC, so that a torn write leaves the other one; and since the file never
grows, it can be written on a disk that is full. Losing it makes records travel to the ledger again, nothing more.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from router.disk import Disk, write_all

_log = structlog.get_logger(__name__)
NAME: Final = "accounts"
_BODY: Final = struct.Struct("<8Q")
_CRC: Final = struct.Struct("<I")
_SLOT_BYTES: Final = 512
"""A sector: written whole or not at all by most disks."""


@dataclass(frozen=True, slots=True)
class Settled:
    """How far the ledger has come, and the numbers of records that go with it."""

    turn: int = 0
    """Rises with every saving; the higher of two slots is the newer one."""
    settled: int = 0
    """Every record with a lower number is stored or set aside."""
    segment: int = 0
    offset: int = 0
    """Where the next record stands."""
    stored: int = 0
    refused: int = 0
    """Set aside with their content, by the ledger or by this router on the ledger's word."""
    missing: int = 0
    """Set aside without their content: damaged on disk, or lost because neither disk nor memory had room."""
    started: int = 0
    """At least so many records were begun; kept up to date while records wait in memory only."""


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """What became of the records of one journal: started = stored + pending + set_aside, always."""

    started: int
    """Records begun since the journal was made."""
    stored: int
    """Records that the ledger confirmed."""
    pending: int
    """Records on their way: on disk, or in memory while the disk refuses."""
    set_aside: int
    """Records that were put aside with a reason; includes `missing`."""
    missing: int
    """Records of those set aside whose content is lost."""
    held: int
    """Records of those pending that are in memory only."""
    disk_bytes: int
    """Size of the journal's segments."""


class Accounts:
    """The open file. `now` is the current state; `save` never raises, since a router must not depend on it."""

    def __init__(self, folder: Path, disk: Disk, *, fresh: bool) -> None:
        self._path = folder / NAME
        self._disk = disk
        self._descriptor: int | None = None
        found = _read(self._path)
        self.known = found is not None or fresh
        """Whether the state is the journal's; else it is learned from the oldest record on disk."""
        self.now = found or Settled()
        if self.known:
            self.save()

    def change(self, **fields: int) -> None:
        """Replaces fields of the state and saves it."""
        self.now = replace(self.now, **fields)
        self.known = True
        self.save()

    def save(self) -> None:
        """Writes the state into the older slot."""
        self.now = replace(self.now, turn=self.now.turn + 1)
        body = _BODY.pack(*astuple(self.now))
        data = (body + _CRC.pack(zlib.crc32(body))).ljust(_SLOT_BYTES, b"\0")
        try:
            if self._descriptor is None:
                self._descriptor = self._disk.open(self._path)
            write_all(self._disk, self._descriptor, data, self.now.turn % 2 * _SLOT_BYTES)
        except OSError as error:
            _log.warning("the journal's accounts cannot be saved; records may travel again", reason=error.strerror)

    def sync(self) -> None:
        """Brings the state to stable storage.

        Raises:
            OSError: the disk refuses.
        """
        if self._descriptor is not None:
            self._disk.sync(self._descriptor)

    def close(self) -> None:
        """Saves and closes."""
        self.save()
        if self._descriptor is not None:
            self._disk.close(self._descriptor)


def _read(path: Path) -> Settled | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    slots = [_slot(data[start : start + _SLOT_BYTES]) for start in (0, _SLOT_BYTES)]
    return max((slot for slot in slots if slot is not None), key=lambda slot: slot.turn, default=None)


def _slot(data: bytes) -> Settled | None:
    if len(data) < _BODY.size + _CRC.size:
        return None
    body = data[: _BODY.size]
    (crc,) = _CRC.unpack_from(data, _BODY.size)
    return Settled(*_BODY.unpack(body)) if zlib.crc32(body) == crc else None
