"""`turnout up` with real processes: one configuration file starts everything, is followed, and stops in order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `turnout train` packaged one variant and wrote the file."""
    folder = tmp_path_factory.mktemp("up")
    done = turnout(folder, "train", "dispatch", "--calls", "500", "--variants", "lightgbm", "-o", "json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["tags"]) == {"lightgbm"}
    assert {"lightgbm", "rules", "majority"} == set(result["evaluation"])
    file = folder / "turnout.yaml"
    # Free ports for the router; the hub, whom the router must find, gets a socket.
    listen = (
        'router: {grpc: "127.0.0.1:0", metrics: "127.0.0.1:0"}\n'
        f'hub: {{grpc: "unix:{folder}/hub.sock", metrics: "127.0.0.1:0", http: "127.0.0.1:0"}}\n'
    )
    file.write_text(file.read_text().replace("families:", listen + "families:", 1))
    return folder


def turnout(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli.main", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")])}


@dataclass
class Running:
    """A running `turnout up`."""

    process: subprocess.Popen[str]
    addresses: dict[str, dict[str, Any]]

    @property
    def router(self) -> str:
        return str(self.addresses["router"]["grpc"])

    def until_said(self, words: str) -> None:
        """Reads what is told to people until it holds the words; the pipe's end fails the test."""
        errors: IO[str] | None = self.process.stderr
        assert errors is not None
        for line in errors:
            if words in line:
                return
        pytest.fail(f"never said: {words}")


@pytest.fixture
def up(trained: Path) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", "up", "-o", "json"],
        cwd=trained,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            if not line:
                assert process.stderr is not None
                pytest.fail(f"it ended early: {text}{process.stderr.read()}")
            text += line
        running = Running(process, json.loads(text))
        children = [psutil.Process(one["pid"]) for one in running.addresses.values()]
        try:
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, errors
        assert not [child for child in children if child.is_running()]


def test_one_command_starts_everything(trained: Path, up: Running) -> None:
    """A prediction by the model, its outcome, the split, and a replay, all through the command line."""
    assert set(up.addresses) == {"hub", "dispatch/lightgbm", "router"}
    scraped = json.loads((trained / ".turnout" / "prometheus.json").read_text())
    found = {one["labels"]["process"]: one["targets"] for one in scraped}
    assert found == {name: [one["metrics"]] for name, one in up.addresses.items()}
    address = ("--address", up.router)
    row = '{"severity": 4, "distance_km": 3, "response_time_min": 7, "call_type": "medical"}'
    weighted = turnout(trained, "split", "set", "dispatch", "--weights", "rules=0", "--why", "a test", "-o", "json")
    assert json.loads(weighted.stdout)["arms"]["rules"]["expected_share"] == 0.0
    asked = ("predict", "dispatch", "--features", row, "--decision", "one", *address, "-o", "json")
    answer = json.loads(turnout(trained, *asked).stdout)
    assert answer["decision_id"] == "one"
    assert 0.0 <= answer["value"] <= 1.0
    again = json.loads(turnout(trained, *asked).stdout)
    assert again["value"] == answer["value"]
    told = turnout(trained, "outcome", "one", "1", *address, "-o", "json")
    assert json.loads(told.stdout)["durability"] in {"pending", "durable"}
    explained = turnout(
        trained, "explain", "dispatch", "--features", row, "--variant", "lightgbm", *address, "-o", "json"
    )
    explanation = json.loads(explained.stdout)
    parts = sum(part["contribution"] for part in explanation["contributions"])
    assert parts == pytest.approx(explanation["value"] - explanation["base_value"], abs=1e-4)
    paused = turnout(trained, "split", "pause", "dispatch", "-o", "json")
    assert json.loads(paused.stdout)["arms"]["lightgbm"]["expected_share"] == 1.0
    resumed = json.loads(turnout(trained, "split", "resume", "dispatch", "-o", "json").stdout)
    assert resumed["paused"] is False
    shown = json.loads(turnout(trained, "split", "show", "dispatch", "-o", "json").stdout)
    assert shown == resumed
    replayed = turnout(trained, "replay", "dispatch", "--since", "1h", "-o", "json")
    assert replayed.returncode == 0
    assert json.loads(replayed.stdout)["differing"] == 0


def test_a_model_server_that_dies_is_started_again(up: Running) -> None:
    """The supervisor says so, and another process listens."""
    server = psutil.Process(up.addresses["dispatch/lightgbm"]["pid"])
    server.kill()
    up.until_said("dispatch/lightgbm: was ended by SIGKILL")
    server.wait(LIMIT)


def test_a_wrong_change_of_the_file_is_told_and_not_applied(trained: Path, up: Running) -> None:
    """The line at fault is named; everything goes on."""
    file = trained / "turnout.yaml"
    before = file.read_text()
    try:
        file.write_text(before.replace("deadline_ms: 500", "deadline_ms: 0"))
        up.until_said("not applied")
    finally:
        file.write_text(before)
    assert up.process.poll() is None


def test_the_file_is_followed(trained: Path, up: Running) -> None:
    """A variant that is added, changed and removed has its model server started, restarted and stopped."""
    file = trained / "turnout.yaml"
    before = file.read_text()
    (line,) = (line for line in before.splitlines() if "bento:" in line)
    name, version = line.split('"')[1].split(":")
    newer = trained / ".turnout" / "bentos" / name / "newer"
    newer.symlink_to(newer.with_name(version))
    added = before.replace("    variants:\n", f"    variants:\n      second:\n{line}\n")
    try:
        file.write_text(added)
        up.until_said("dispatch/second: started")
        file.write_text(added.replace(version, "newer", 1))
        up.until_said("dispatch/second: restarted")
        file.write_text(before)
        up.until_said("dispatch/second: stopped")
    finally:
        file.write_text(before)
        newer.unlink()


def test_a_second_one_on_the_same_home_is_refused(trained: Path, up: Running) -> None:
    """It would take the first one's sockets away; the first one goes on."""
    done = turnout(trained, "up")
    assert done.returncode == 1
    assert "already: stop it first" in done.stderr
    assert up.process.poll() is None
    row = '{"severity": 2}'
    asked = turnout(trained, "predict", "dispatch", "--features", row, "--address", up.router)
    assert asked.returncode == 0, asked.stderr


def test_a_port_that_is_taken_is_told_in_one_sentence(trained: Path, tmp_path: Path) -> None:
    """Exit code 1, the address, and nothing left running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = (trained / "turnout.yaml").read_text().replace('grpc: "127.0.0.1:0"', f'grpc: "127.0.0.1:{port}"')
        file = tmp_path / "turnout.yaml"
        file.write_text(text.replace('home: ".turnout"', f'home: "{trained}/.turnout"'))
        done = turnout(tmp_path, "up")
    assert done.returncode == 1, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("turnout: ")]
    assert len(said) == 1
    assert f"router did not start: 127.0.0.1:{port} cannot be bound" in said[0]
