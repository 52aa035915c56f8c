"""The main job end to end, with real processes: what `turnout demo -o json` promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
REAL_DATA = ROOT.parent / "shared" / "data" / "sf_fire_calls" / "sf_fire_calls.csv.gz"
LIMIT = 240.0


def demo(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the demo in a folder of the test's own, with two variants and little to learn."""
    command = [sys.executable, "-m", "services.cli.main", "demo", "--variants", "xgboost,lightgbm", "-o", "json"]
    environment = {**os.environ, "TURNOUT_HOME": str(home)}
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )


def verified(done: subprocess.CompletedProcess[str], home: Path) -> dict[str, Any]:
    """Gives the result after checking what holds for every run."""
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    arms = result["arms"].values()
    assert result["errors"] == 0
    assert result["failures"] == []
    assert result["predictions"] == result["decisions_in_ledger"] > 0
    assert result["answered_in_deadline"] <= result["predictions"]
    assert result["outcomes_recorded"] == result["outcomes_joined"] == sum(arm["outcomes"] for arm in arms) > 0
    assert set(result["arms"]) == {"rules", "xgboost", "lightgbm"}
    assert sum(arm["assigned"] for arm in arms) == result["predictions"]
    assert sum(arm["assigned"] - arm["served"] for arm in arms) == sum(result["fallbacks"].values())
    assert all(0 < arm["p50_ms"] <= arm["p99_ms"] for arm in arms)
    assert all(0 <= arm["outcome_rate"] <= 1 for arm in arms if arm["outcomes"])
    assert result["split_changes"] == 1
    assert [(change["before"], change["after"]) for change in result["split_history"]] == [("weighted", "round_robin")]
    assert result["killed_model_server"] in {"dispatch/xgboost", "dispatch/lightgbm"}
    assert result["recovered_seconds"] > 0
    assert result["replay_identical"] is True
    assert {"xgboost", "lightgbm", "rules", "majority"} <= set(result["variants"])
    assert list(home.iterdir()) == []
    return result


def test_the_demo_answers_every_call_and_counts_every_outcome(tmp_path: Path) -> None:
    """Simulated incidents: the split changes and a model server dies meanwhile, and the ledger has everything once."""
    result = verified(demo(tmp_path, "--seconds", "6", "--calls", "800", "--seed", "3"), tmp_path)
    assert result["seed"] == 3
    assert result["seconds"] >= 6.0


@pytest.mark.skipif(not REAL_DATA.exists(), reason="the San Francisco calls are not beside this checkout")
def test_the_demo_replays_real_records(tmp_path: Path) -> None:
    """The newest real calls are the live traffic; each one's real outcome arrives."""
    result = verified(demo(tmp_path, "--seconds", "5", "--calls", "3000", "--data", str(REAL_DATA)), tmp_path)
    assert result["outcomes_recorded"] == result["predictions"]


HEADER = "CallNumber,UnitID,CallType,CallDate,Battalion,StationArea,OriginalPriority,ALSUnit,UnitType,Location,Delay"
FEW = "".join(f"{call},E1,Alarms,01/02/2021,B1,3,2,false,ENGINE,,{2 + call % 7}\n" for call in range(150))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nothing of use\n1\n", "line 1: column 'CallNumber' is missing"),
        (f"{HEADER}\n1,E1,Alarms,2021-01-02,B1,3,2,false,ENGINE,,2\n", "line 2: column 'CallDate' must be"),
        (f"{HEADER}\n{FEW}", "holds 150 usable decisions; the demo needs at least 266"),
    ],
    ids=["no header", "a wrong date", "too few rows"],
)
def test_a_data_file_of_no_use_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    """One sentence, exit code 2, and nothing left behind."""
    data = tmp_path / "calls.csv"
    data.write_text(text)
    done = demo(tmp_path / "home", "--data", str(data))
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("turnout: ") and sentence in line]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list((tmp_path / "home").iterdir()) == []
