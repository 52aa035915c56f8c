"""Where state lives on this machine: everything under one folder (`home` in turnout.yaml, TURNOUT_HOME)."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MAX_SOCKET_PATH: Final = 100
"""Linux allows 107 bytes for the path of a unix socket."""


@dataclass(frozen=True, slots=True)
class Home:
    """The folder and what is where in it."""

    root: Path

    @property
    def bentoml(self) -> Path:
        """BentoML's own store (BENTOML_HOME)."""
        return self.root / "bentoml"

    def bento(self, tag: str) -> Path:
        """Folder of an exported bento, by its exact tag "name:version"."""
        name, _, version = tag.partition(":")
        return self.root / "bentos" / name / version

    @property
    def bentos(self) -> Path:
        """Folder of all exported bentos."""
        return self.root / "bentos"

    def journal(self, router: str) -> Path:
        """Folder of a router's journal."""
        return self.root / "journal" / router

    @property
    def ledger(self) -> Path:
        """The ledger's SQLite file."""
        return self.root / "ledger.sqlite"

    def socket(self, name: str) -> str:
        """gRPC address of a local unix socket; falls back to a private temporary folder where the path is too long.

        Raises:
            OSError: the folder belongs to somebody else, or others may write into it: they could answer in our place.
        """
        path = self.root / "run" / f"{name}.sock"
        if len(str(path)) > _MAX_SOCKET_PATH:
            key = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
            path = Path(tempfile.gettempdir()) / f"turnout-{key}" / f"{name}.sock"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = path.parent.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise OSError(
                f"{path.parent} must be a folder of your own that only you can write: remove it and start again"
            )
        return f"unix:{path}"

    def variant_socket(self, family: str, variant: str) -> str:
        """gRPC address of the local model server of a variant."""
        return self.socket(f"{family}-{variant}")


def keep_private() -> None:
    """Lets only this process's own user read what it makes from now on: journal and ledger tell of people.

    Called once, by a process's entry point.
    """
    os.umask(0o077)
