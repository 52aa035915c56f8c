"""The last good set of experiments on disk: a router starts with it when the hub is away."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from turnout.v1 import experiment_pb2

_MAGIC: Final = b"turnout experiments 1\n"
_MAX_BYTES: Final = 64 << 20


class LastGood:
    """One file: a mark, the SHA-256 of the rest, and an ExperimentSet. Replaced whole, so that it is never half."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> experiment_pb2.ExperimentSet | None:
        """Gives the set; None when there is none, or when it is damaged or another version's."""
        try:
            if self.path.stat().st_size > _MAX_BYTES:
                return None
            content = self.path.read_bytes()
        except OSError:
            return None
        digest, _, body = content.removeprefix(_MAGIC).partition(b"\n")
        if not content.startswith(_MAGIC) or hashlib.sha256(body).hexdigest().encode() != digest:
            return None
        try:
            return experiment_pb2.ExperimentSet.FromString(body)
        except DecodeError:
            return None

    def save(self, message: experiment_pb2.ExperimentSet) -> None:
        """Replaces the set and waits until the disk has it.

        Raises:
            OSError: the disk does not take it; what was there before stays.
        """
        body = message.SerializeToString(deterministic=True)
        content = _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = self.path.with_name(f"{self.path.name}.new")
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
