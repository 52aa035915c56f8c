"""The experiments of turnout.yaml: read at each call, changed in place, whole or not at all.

People edit the same file by hand. So comments, order and layout stay; the new text is checked as a whole before it
replaces the old one; and a hand edit that happens meanwhile is noticed rather than overwritten.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from services.control.changes import Change, apply_change
from services.control.rewriting import rewrite
from services.runtime.config import MAX_BYTES, Config, ConfigError, parse_config
from services.runtime.errors import Aborted, FailedPrecondition, NotFound, Unavailable
from services.runtime.experiment import Experiment
from services.runtime.followed_file import Fingerprint, fingerprint_of, folder_locked, replace_file

LOCK_SECONDS: Final = 2.0
_LOCK_PAUSE_SECONDS: Final = 0.01
Based = Callable[[Experiment], None]
"""Refuses, by raising, an experiment on which a change may not be based."""


class ExperimentFile:
    """turnout.yaml as the store of the experiments. Its methods block on the disk: call them in a thread.

    Args:
        path: the file; a link is followed, and what it points to is replaced.
        clock: rising seconds, to limit the wait for another program's change.
        pause: waits that many seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._clock = clock
        self._pause = pause

    def read(self) -> dict[str, Experiment]:
        """Gives the experiments by family, as they stand in the file now.

        Raises:
            FailedPrecondition: the file cannot be read or is wrong; the text names the line.
        """
        return self._read()[1].experiments

    def change(self, family: str, based: Based, make: Callable[[Experiment], Change]) -> tuple[Experiment, Experiment]:
        """Changes one experiment; gives it as it was and as it is now, the same object twice when nothing changed.

        Args:
            family: whose experiment.
            based: raises when the change may not be based on the present experiment.
            make: gives the change to the present experiment, or raises.

        Raises:
            NotFound: the family has no experiment.
            Aborted: the file was edited by hand at the same moment.
            FailedPrecondition: the file is wrong as it stands, cannot be written, or cannot hold the change.
            Unavailable: another program keeps the file's folder locked.
        """
        path = self._path.resolve()
        with self._locked(path.parent):
            text, config, version = self._read()
            if family not in config.experiments:
                raise NotFound("family", f"there is no experiment for {family[:64]!r}")
            before = config.experiments[family]
            based(before)
            after = apply_change(before, make(before))
            if after is before:
                return before, before
            wanted = config.model_copy(update={"experiments": config.experiments | {family: after}})
            self._replace(path, _checked(rewrite(text, family, before, after), wanted, path.name), version)
        return before, after

    def _read(self) -> tuple[str, Config, Fingerprint]:
        try:
            with self._path.open("rb") as file:
                version = fingerprint_of(os.fstat(file.fileno()))
                text = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise FailedPrecondition("", f"{self._path.name} cannot be read: {error.strerror}") from error
        if len(text) > MAX_BYTES:
            raise FailedPrecondition("", f"{self._path.name} is over {MAX_BYTES} bytes")
        try:
            return text.decode(), parse_config(text, self._path.name), version
        except UnicodeDecodeError as error:
            raise FailedPrecondition("", f"{self._path.name} is not in UTF-8") from error
        except ConfigError as error:
            raise FailedPrecondition("", f"correct the file first: {error}") from error

    def _replace(self, path: Path, text: str, version: Fingerprint) -> None:
        def unless_edited() -> None:
            if fingerprint_of(path.stat()) != version:
                raise Aborted("base_revision", f"{path.name} was edited at the same moment: look at it and try again")

        try:
            replace_file(path, text, unless=unless_edited)
        except OSError as error:
            raise FailedPrecondition("", f"{path.name} cannot be written: {error.strerror}") from error

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        end = self._clock() + LOCK_SECONDS

        def keep_waiting() -> bool:
            self._pause(_LOCK_PAUSE_SECONDS)
            return self._clock() < end

        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(folder_locked(folder, keep_waiting=keep_waiting))
            except BlockingIOError as error:
                raise Unavailable("", "another program is changing the file; try again") from error
            except OSError as error:
                raise FailedPrecondition("", f"{folder.name} cannot be opened: {error.strerror}") from error
            yield


def _checked(text: str, wanted: Config, name: str) -> str:
    """Gives the text if it says exactly what is wanted; it may not where YAML anchors share settings."""
    try:
        says = parse_config(text, name)
    except ConfigError as error:
        raise FailedPrecondition("", f"the change would make the file wrong: {error}") from error
    if says.model_dump_json() != wanted.model_dump_json():
        raise FailedPrecondition(
            "family", f"{name} shares this experiment's settings with others by a YAML anchor: change it by hand"
        )
    return text
