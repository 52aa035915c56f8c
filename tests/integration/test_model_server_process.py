"""The model server as a process: how it starts, refuses, stops, and what it never loads."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos.manifest import MANIFEST
from inference import open_inference_pb2 as oip
from tests.integration.model_under_test import (
    FEATURES,
    MODEL_SERVICE,
    OPEN_INFERENCE,
    calling,
    frame,
    linear,
    results,
    rows,
    write_bento,
)
from turnout.v1 import model_pb2

TRAINED = linear()
SERVER = [sys.executable, "-m", "services.model_server"]
WATCHED = """
import json, sys
found = []
sys.addaudithook(lambda event, args: found.append(args) if event == "pickle.find_class" else None)
from services.model_server.__main__ import main
code = main(sys.argv[1:])
training = {"bentoml", "sklearn", "xgboost", "lightgbm", "onnx", "skl2onnx", "onnxmltools", "pandas", "joblib"}
pickled = len(found)
import pathlib, pickle
pickle.loads(pickle.dumps(pathlib.PurePath("the witness is awake")))
witness = len(found) > pickled
loaded = sorted(training & set(sys.modules))
print(json.dumps({"pickled": pickled, "witness": witness, "training": loaded, "code": code}))
"""


@contextmanager
def process(command: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Starts a server and gives it with its ready line; it is gone at the end."""
    arguments = ["--bento", str(folder), "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        try:
            line = started.stdout.readline()
            assert line, started.stderr.read()
            yield started, json.loads(line)
        finally:
            started.kill()


async def use(address: str) -> None:
    """Calls everything that a server offers once."""
    values = rows(3)
    async with calling(address) as caller:
        stream = caller.stream()
        await stream.write(frame(1, [values]).SerializeToString())
        answers, _ = await results(stream, 1)
        np.testing.assert_allclose(answers[1], TRAINED.answers(values), atol=1e-6)
        await stream.done_writing()
        await stream.code()
        await caller(MODEL_SERVICE, "Attribute", model_pb2.AttributeRequest(tensor=values[0].tobytes()))
        request = oip.ModelInferRequest(model_name="dispatch", raw_input_contents=[values.tobytes()])
        request.inputs.add(name="features", datatype="FP32", shape=[3, FEATURES])
        await caller(OPEN_INFERENCE, "ModelInfer", request)


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        return str(reply.read().decode())


async def test_it_says_where_it_is_counts_and_stops_when_told(tmp_path: Path) -> None:
    """One ready line, metrics over HTTP, exit code 0 after SIGTERM."""
    with process(SERVER, write_bento(tmp_path, TRAINED)) as (started, ready):
        assert ready["event"] == "ready"
        assert ready["version"] == "turnout-dispatch-linear:v1"
        await use(ready["grpc"])
        metrics = await asyncio.to_thread(scrape, ready["metrics"])
        assert 'turnout_model_calls_total{result="ok"} 2.0' in metrics
        assert 'variant="linear"' in metrics
        assert "process_resident_memory_bytes" in metrics
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0


async def test_it_never_opens_a_pickle_nor_loads_a_training_library(tmp_path: Path) -> None:
    """Python's own audit events are the witness: no class is looked up by a pickle, from the start to the drain."""
    with process([sys.executable, "-c", WATCHED], write_bento(tmp_path, TRAINED)) as (started, ready):
        await use(ready["grpc"])
        started.send_signal(signal.SIGTERM)
        assert started.stdout is not None
        assert json.loads(started.stdout.readline()) == {
            "pickled": 0,
            "witness": True,
            "training": [],
            "code": 0,
        }


def without_tag(folder: Path) -> None:
    (folder / "bento.yaml").write_text("- nothing")


def with_two_models(folder: Path) -> None:
    (folder / MANIFEST).write_text(TRAINED.manifest.dumps())


def with_another_file(folder: Path) -> None:
    next(folder.glob("models/*/*/model.onnx")).write_bytes(linear(seed=9).onnx)


def with_a_link_out(folder: Path) -> None:
    model = next(folder.glob("models/*/*/model.onnx"))
    model.rename(folder.parent / "elsewhere.onnx")
    model.symlink_to(folder.parent / "elsewhere.onnx")


def without_a_graph(folder: Path) -> None:
    manifest = next(folder.glob(f"models/*/*/{MANIFEST}"))
    content = b"no graph at all"
    (manifest.parent / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    manifest.write_text(replace(TRAINED.manifest, sha256=digest).dumps())


def with_another_output(folder: Path) -> None:
    manifest = next(folder.glob(f"models/*/*/{MANIFEST}"))
    manifest.write_text(replace(TRAINED.manifest, output_name="logits").dumps())


def with_more_features(folder: Path) -> None:
    manifest = next(folder.glob(f"models/*/*/{MANIFEST}"))
    manifest.write_text(replace(TRAINED.manifest, features=("one", "two")).dumps())


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without_tag, "names no bento"),
        (with_two_models, "must hold one turnout.json, not 2"),
        (with_another_file, "its SHA-256 differs"),
        (with_a_link_out, "leads out of the bento's folder"),
        (without_a_graph, "onnxruntime cannot load the packaged model file"),
        (with_another_output, "the graph has no output 'logits'"),
        (with_more_features, "does not answer a row of zeros"),
        (lambda folder: (folder / "bento.yaml").unlink(), "is not an exported bento"),
    ],
)
def test_a_wrong_bento_stops_it_with_one_sentence(
    tmp_path: Path, spoil: Callable[[Path], None], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, nothing on standard output, one line on standard error."""
    from services.model_server.__main__ import main

    folder = write_bento(tmp_path / "bento", TRAINED)
    spoil(folder)
    assert main(["--bento", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("metrics", ["nowhere", "127.0.0.1:99999", ":8002"])
def test_a_wrong_metrics_address_stops_it(tmp_path: Path, metrics: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence names the option."""
    from services.model_server.__main__ import main

    assert main(["--bento", str(write_bento(tmp_path, TRAINED)), "--metrics", metrics]) == 2
    assert "--metrics must be host:port" in capsys.readouterr().err
