"""No record of which a caller heard `durable` is lost by a power cut; `make chaos` runs every cut of long histories."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from router.journal import Journal
from tests.chaos.power_cuts import Promised, cuts, history, lost_after


@pytest.mark.parametrize("seed", range(3))
async def test_no_promised_record_is_lost_by_a_power_cut(tmp_path: Path, seed: int) -> None:
    """Every seventh cut of a history with commits, rolls, shipping and a restart."""
    steps = await history(tmp_path / "history", seed, appends=30)
    folder = tmp_path / "after"
    folder.mkdir()
    tried = 0
    for cut in itertools.islice(cuts(steps, seed), 0, None, 7):
        assert await lost_after(cut, folder) == []
        tried += 1
    assert tried > 200


async def test_a_journal_that_promised_too_early_would_be_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulation can fail: without synchronisation, promised records are lost by some cut."""
    monkeypatch.setattr(Journal, "synchronise", lambda _: None)
    steps = await history(tmp_path / "history", 1, appends=10)
    assert any(isinstance(step, Promised) for step in steps)
    folder = tmp_path / "after"
    folder.mkdir()
    monkeypatch.undo()
    lost = 0
    for cut in cuts(steps, 1):
        lost += len(await lost_after(cut, folder))
    assert lost > 0
