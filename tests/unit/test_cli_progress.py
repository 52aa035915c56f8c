"""Progress where no terminal is: lines, not too many."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from services.cli.progress import Steps


def test_a_long_step_without_a_terminal_says_every_two_seconds_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log shows that something happens, without a line for every row."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Steps(Console(file=out, width=80)) as steps, steps.step("training") as step:
        for what, seconds in (("one", 1.0), ("two", 1.5), ("three", 0.5), ("four", 2.0)):
            now[0] += seconds
            step.doing(what)
    assert out.getvalue().splitlines() == ["training …", "training: two …", "training: four …", "training (5.0 s)"]
