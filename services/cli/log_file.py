"""A child's log: everything it writes on standard error, in a file whose size is bounded."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 8 << 20
_TAIL_LINES: Final = 20


class LogFile:
    """Appends to `path`. A file that would grow over the bound becomes `<path>.1` first, replacing the one before.

    Args:
        path: the file; its folder is made.
        max_bytes: bound of the file, and of the one before it.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._max_bytes = max_bytes
        self._file = path.open("ab")
        self._tail: deque[bytes] = deque(maxlen=_TAIL_LINES)

    def write(self, content: bytes) -> None:
        """Appends some output; a full disk costs the log, never the process."""
        self._tail.extend(line for line in content.splitlines() if line.strip())
        try:
            if self._file.tell() + len(content) > self._max_bytes:
                self._file.close()
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self._file = self.path.open("ab")
            self._file.write(content[-self._max_bytes :])
            self._file.flush()
        except OSError:
            return

    def last_words(self) -> str:
        """Gives the last line that is meant for people (not JSON), at most 400 characters; empty without one."""
        for line in reversed(self._tail):
            text = line.decode(errors="replace").strip()
            if not text.startswith("{"):
                return text[:400]
        return ""

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
