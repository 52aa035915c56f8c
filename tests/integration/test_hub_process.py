"""The hub as a process: it says when it is ready, stops when asked, and refuses in one sentence."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from turnout.v1 import experiment_pb2, ledger_pb2

CONFIG = """\
hub: {grpc: "127.0.0.1:0", metrics: "127.0.0.1:0", http: "127.0.0.1:0"}
families: {dispatch: {}}
experiments:
  dispatch: {salt: s, champion: rules, strategy: {kind: random}, arms: {rules: {variant: rules}}}
"""
ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def hub(config: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "services.hub", "--config", str(config)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "turnout.yaml"
    file.write_text(CONFIG)
    return file


def test_it_announces_itself_serves_and_stops_on_sigterm(config: Path) -> None:
    """The one line on standard output has both addresses; a second hub is kept off the ledger; logs are JSON."""
    with hub(config) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["event"], ready["service"]) == ("ready", "hub")
        with urllib.request.urlopen(f"http://{ready['metrics']}/metrics", timeout=10) as page:
            assert b"ledger_decisions_total 0.0" in page.read()
        api = f"http://{ready['http']}"
        with urllib.request.urlopen(f"{api}/v1/experiment/experiment?name=dispatch", timeout=10) as page:
            assert json.load(page)["experiment"]["family"] == "dispatch"
        with urllib.request.urlopen(f"{api}/openapi.json", timeout=10) as page:
            assert "/v1/ExperimentService/PauseExperiment" in json.load(page)["paths"]
        with grpc.insecure_channel(ready["grpc"]) as channel:
            pause = channel.unary_unary(
                "/turnout.v1.ExperimentService/PauseExperiment",
                request_serializer=experiment_pb2.PauseExperimentRequest.SerializeToString,
                response_deserializer=experiment_pb2.PauseExperimentResponse.FromString,
            )
            request = experiment_pb2.PauseExperimentRequest(name="dispatch", base_revision=1, why="test")
            assert pause(request, timeout=10).experiment.paused
        with hub(config) as second:
            _, errors = second.communicate(timeout=30)
            assert second.returncode == 2
            assert "in use by another process" in errors
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "")
        lines = [json.loads(line) for line in errors.splitlines()]
        # The check cycle tells the health from the first moment on.
        lines = [line for line in lines if line["event"] != "health"]
        assert [(line["event"], line["service"]) for line in lines] == [("experiment changed", "hub")] * 2
        assert [(line["who"], line["why"]) for line in lines] == [("turnout.yaml", ""), ("default", "test")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CONFIG.replace("champion: rules", "champion: nobody"), "turnout.yaml:4: experiments.dispatch"),
        (CONFIG.replace('metrics: "127.0.0.1:0"', 'metrics: "unix:/tmp/x"'), "hub.metrics"),
    ],
)
def test_a_wrong_configuration_stops_it_with_code_2_and_one_sentence(config: Path, text: str, says: str) -> None:
    """Nothing is announced, and the sentence names the place."""
    config.write_text(text)
    with hub(config) as process:
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, out) == (2, "")
        assert says in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize("which", ["grpc", "metrics"])
def test_an_address_that_is_taken_stops_it_with_code_2_and_one_sentence(config: Path, which: str) -> None:
    """Another process's port is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config.write_text(CONFIG.replace(f'{which}: "127.0.0.1:0"', f'{which}: "{address}"'))
        with hub(config) as process:
            out, errors = process.communicate(timeout=30)
            assert (process.returncode, out) == (2, "")
            assert f"hub: {address} cannot be bound" in errors
            assert "Traceback" not in errors


def test_a_damaged_ledger_is_refused_and_left_as_it_is(config: Path) -> None:
    """A file that is no database is not overwritten."""
    ledger = config.parent / ".turnout" / "ledger.sqlite"
    ledger.parent.mkdir()
    ledger.write_bytes(b"this is no database" * 100)
    with hub(config) as process:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 2
        assert "is not a database" in errors
    assert ledger.read_bytes() == b"this is no database" * 100


def test_what_was_confirmed_survives_a_kill(config: Path) -> None:
    """A batch that was answered is known to the next hub, although the first one got no chance to close anything."""
    outcome = ledger_pb2.Outcome(decision_id="d", tenant="city", value=1, recorded_at_unix_us=time.time_ns() // 1000)
    record = ledger_pb2.JournalRecord(outcome=outcome).SerializeToString()
    request = ledger_pb2.AppendRecordsRequest(records=[record, b"\xff"], router="router-1")
    answers = []
    for _ in range(2):
        with hub(config) as process:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            with grpc.insecure_channel(ready["grpc"]) as channel:
                append = channel.unary_unary(
                    "/turnout.v1.LedgerService/AppendRecords",
                    request_serializer=ledger_pb2.AppendRecordsRequest.SerializeToString,
                    response_deserializer=ledger_pb2.AppendRecordsResponse.FromString,
                )
                answers.append(append(request, timeout=10))
            process.kill()
            assert process.wait(timeout=30) == -signal.SIGKILL
    assert [(one.stored, one.set_aside, one.duplicates) for one in answers] == [(1, 1, 0), (0, 0, 2)]
