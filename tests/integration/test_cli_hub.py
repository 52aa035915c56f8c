"""What commands say when the hub, or what is behind it, is away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.cli.hub import Hub
from services.runtime.database import Database
from services.runtime.errors import Unavailable
from tests.integration.control_under_test import control


async def test_a_hub_whose_database_is_away_is_not_told_to_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own sentence is shown; only a hub that nobody reaches is to be started."""

    async def away(*_: Any) -> None:
        raise Unavailable("", "the database cannot be read")

    def ask(address: str) -> None:
        with Hub(address) as hub:
            hub.revisions("dispatch", 1)

    async with control(tmp_path, f"sqlite:///{tmp_path}/hub.db") as c:
        await asyncio.to_thread(ask, c.server.address)
        monkeypatch.setattr(Database, "read", away)
        with pytest.raises(Unavailable, match=r"^the database cannot be read$"):
            await asyncio.to_thread(ask, c.server.address)
    with pytest.raises(Unavailable, match="cannot be reached: start it"):
        await asyncio.to_thread(ask, c.server.address)
