"""What the journal set aside: damaged bytes and records that the ledger refused, each with its reason, kept to be read.

One JSON object a line in the folder `rejects`: `reason`, `length` (in bytes), `bytes` (base64). The file is
bounded; beyond the bound only the accounts know.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Final

import structlog

from router.disk import Disk, write_all

_log = structlog.get_logger(__name__)
FOLDER: Final = "rejects"
MAX_BYTES: Final = 64 << 20
MAX_ENTRY_BYTES: Final = 1 << 20


class Rejects:
    """The file. `add` never raises: what cannot be kept is still counted."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.path = folder / FOLDER / "rejects.jsonl"
        self._disk = disk

    def add(self, content: bytes, reason: str) -> None:
        """Keeps bytes that could not be shipped."""
        _log.error("set aside", reason=reason, bytes=len(content))
        text = base64.b64encode(content[:MAX_ENTRY_BYTES]).decode()
        line = json.dumps({"reason": reason, "length": len(content), "bytes": text}) + "\n"
        try:
            self.path.parent.mkdir(exist_ok=True)
            size = self.path.stat().st_size if self.path.exists() else 0
            if size + len(line) > MAX_BYTES:
                return
            descriptor = self._disk.open(self.path)
            try:
                write_all(self._disk, descriptor, line.encode(), size)
                self._disk.sync(descriptor)
            finally:
                self._disk.close(descriptor)
        except OSError as error:
            _log.error("what was set aside cannot be kept", reason=error.strerror)
