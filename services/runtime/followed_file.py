"""A file that people and programs change while others follow it: noticed, locked, and replaced in one step."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_MODE_OF_A_NEW_FILE: Final = 0o644
Fingerprint = tuple[int, int, int]
"""What changes when a file is edited or replaced."""


def fingerprint(path: Path) -> Fingerprint | None:
    """Gives the fingerprint of the file, through a symbolic link; None when it is gone."""
    try:
        return fingerprint_of(path.stat())
    except OSError:
        return None


def fingerprint_of(found: os.stat_result) -> Fingerprint:
    """Gives the fingerprint of a file whose status is known."""
    return found.st_mtime_ns, found.st_size, found.st_ino


@contextlib.contextmanager
def folder_locked(folder: Path, *, keep_waiting: Callable[[], bool]) -> Iterator[None]:
    """Keeps out other programs that change files of this folder; the system lifts the lock if this process dies.

    Args:
        folder: where the file stands.
        keep_waiting: asked each time another program has the lock; False gives up.

    Raises:
        BlockingIOError: another program has the lock.
        OSError: the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not keep_waiting():
                    raise
        yield
    finally:
        os.close(descriptor)


def replace_file(path: Path, text: str, *, unless: Callable[[], None] = lambda: None) -> None:
    """Puts the text in the file's place in one step, on stable storage; the file's permissions stay.

    Args:
        path: the file; it may not be there yet.
        text: all that it says from now on.
        unless: called just before the step; what it raises leaves the file as it is.

    Raises:
        OSError: the file cannot be written.
    """
    mode = path.stat().st_mode & 0o7777 if path.exists() else _MODE_OF_A_NEW_FILE
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    scratch = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 - a descriptor, no path
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        unless()
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    _synchronise_folder(path.parent)


def _synchronise_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
