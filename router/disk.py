"""The few operations that a journal needs of a file system, so that tests can cut its power or fill it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """A folder's file system. Every method may raise OSError; `write` may write less than all."""

    def open(self, path: Path) -> int:
        """Opens a file for reading and writing, made when it is not there."""

    def write(self, descriptor: int, data: bytes, offset: int) -> int:
        """Writes at an offset; gives how many bytes were taken."""

    def truncate(self, descriptor: int, size: int) -> None:
        """Cuts a file to a size."""

    def sync(self, descriptor: int) -> None:
        """Returns when what was written so far is on stable storage."""

    def sync_folder(self, folder: Path) -> None:
        """Returns when the names of the folder's files are on stable storage."""

    def remove(self, path: Path) -> None:
        """Removes a file; one that is not there is no error."""

    def close(self, descriptor: int) -> None:
        """Closes a file."""


class LocalDisk:
    """The operating system's file systems."""

    def open(self, path: Path) -> int:
        """Opens a file that only its owner may read."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, data: bytes, offset: int) -> int:
        """Writes at an offset."""
        return os.pwrite(descriptor, data, offset)

    def truncate(self, descriptor: int, size: int) -> None:
        """Cuts a file."""
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Synchronises content and size."""
        os.fdatasync(descriptor)

    def sync_folder(self, folder: Path) -> None:
        """Synchronises the folder itself: a new file's name is not stable before that."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Removes a file."""
        path.unlink(missing_ok=True)

    def close(self, descriptor: int) -> None:
        """Closes a file."""
        os.close(descriptor)


def write_all(disk: Disk, descriptor: int, data: bytes, offset: int) -> None:
    """Writes all of `data`; what was written before an OSError stays.

    Raises:
        OSError: the disk refuses.
    """
    written = disk.write(descriptor, data, offset)
    while written < len(data):
        written += disk.write(descriptor, data[written:], offset + written)


def lock(folder: Path) -> int:
    """Takes a folder for this process alone; the descriptor given holds the lock until it is closed.

    Raises:
        OSError: another process has it.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise OSError(f"{folder} is in use by another router: give each router a name of its own") from None
    return descriptor
