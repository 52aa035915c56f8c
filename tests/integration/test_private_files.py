"""What processes write tells of people: nobody else on the machine may read it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from router import __main__ as router_main
from router.journal import Journal
from services.hub import __main__ as hub_main
from services.runtime.database import open_database, sqlite_url


@pytest.fixture(autouse=True)
def open_to_everybody() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("main", [router_main.main, hub_main.main])
def test_journal_and_ledger_are_their_owners_alone(
    main: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the entry point on, whatever the user's own habit is."""

    def run(work: Coroutine[Any, Any, None]) -> None:
        work.close()
        Journal(tmp_path / "journal" / "router-1", max_bytes=64 << 20).close()
        with open_database(sqlite_url(tmp_path / "home" / "ledger.sqlite")):
            pass

    monkeypatch.setattr(asyncio, "run", run)
    monkeypatch.setattr(sys, "argv", ["process"])
    main()
    made = [*(tmp_path / "journal").rglob("*"), *(tmp_path / "home").rglob("*")]
    assert {path.name for path in made} >= {"router-1", "ledger.sqlite"}
    assert [path for path in made if path.stat().st_mode & 0o077] == []
