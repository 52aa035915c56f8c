"""What all tests share: laws are not timed, and no test's logging reaches into the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

settings.register_profile("turnout", deadline=None)
settings.load_profile("turnout")


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    """Undoes what a process's entry point configured when a test ran it in this process."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
