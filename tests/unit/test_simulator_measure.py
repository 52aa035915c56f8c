"""The command that measures the simulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.dispatch.measure import main


def test_it_prints_a_row_for_each_priority(capsys: pytest.CaptureFixture[str]) -> None:
    """All calls of all seeds are counted, each once."""
    assert main(["--calls", "60", "--seeds", "2"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| synthetic-1")]
    assert [row[2].strip() for row in rows] == ["high", "medium", "low"]
    assert sum(int(row[4]) for row in rows) == 120


def test_a_folder_that_is_no_city_ends_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code says so too."""
    assert main(["--calls", "10", "--seeds", "1", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == "nowhere: a city is a folder, and there is none\n"
