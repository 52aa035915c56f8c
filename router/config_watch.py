"""Follows turnout.yaml: a changed file is read and checked whole, then applied; a bad one is refused and told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from services.runtime.cancelling import asked_to_end
from services.runtime.config import Config, ConfigError, read_config
from services.runtime.followed_file import Fingerprint, fingerprint

_log = structlog.get_logger(__name__)
POLL_SECONDS: Final = 0.1
Apply = Callable[[Config], Awaitable[None]]


async def watch(path: Path, seen: Fingerprint | None, apply: Apply, refused: Callable[[], None]) -> None:
    """Applies every change of the file until cancelled. `seen` is the fingerprint of what is applied already."""
    while not asked_to_end():
        await asyncio.sleep(POLL_SECONDS)
        now = fingerprint(path)
        if now == seen or now is None:
            continue
        seen = now
        try:
            await apply(read_config(path))
        except ConfigError as error:
            refused()
            _log.error("configuration refused; the old one stays", reason=str(error))
        except Exception as failure:  # noqa: BLE001 - one file that cannot be applied must not end the following
            refused()
            _log.error("configuration could not be applied; the old one stays", exc_info=failure)
