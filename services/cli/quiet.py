"""Structured logs of libraries inside the command: into a file, never between its results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import structlog


@contextlib.contextmanager
def logs_to(path: Path) -> Iterator[None]:
    """Sends structured logs to a file until the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            logger_factory=structlog.PrintLoggerFactory(file=file),
        )
        try:
            yield
        finally:
            structlog.reset_defaults()
