"""Packaging with BentoML: exact tags, verified digests, one variant a bento, and the same numbers every way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml

from services.cli import main
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound
from services.runtime.home import Home
from services.training.packaging import package
from services.training.store import bento_name, delete, exact_tag, list_versions, model_tags, show
from tests.integration.model_under_test import (
    FEATURES,
    Linear,
    Matrix,
    calling,
    frame,
    linear,
    results,
    rows,
    write_bento,
)

START = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)


@dataclass
class Packaged:
    """A home with four bentos, packaged two at a time."""

    home: Home
    trained: dict[str, Linear]
    """By exact tag."""

    def tag(self, variant: str) -> str:
        """The oldest tag of a variant."""
        return min(tag for tag, made in self.trained.items() if made.manifest.variant == variant)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    home = Home(tmp_path_factory.mktemp("home"))
    made = [
        (linear("first", seed=1), START),
        (linear("first", seed=2), START + timedelta(seconds=1)),
        (linear("random_forest", seed=3), START),
        (linear("first", family="other", seed=4), START),
    ]
    with ThreadPoolExecutor(2) as pool:
        tags = list(pool.map(lambda pair: package(pair[0], home, clock=lambda: pair[1]), made))
    return Packaged(home, dict(zip(tags, (trained for trained, _ in made), strict=True)))


def test_tags_name_family_variant_time_and_digest(packaged: Packaged) -> None:
    """Names fit Kubernetes; versions sort by time."""
    tag = packaged.tag("random_forest")
    digest = packaged.trained[tag].manifest.sha256
    assert tag == f"turnout-dispatch-random-forest:20260301-120000123-{digest[:8]}"


def test_versions_are_listed_a_family_oldest_first(packaged: Packaged) -> None:
    """With what the manifest says of each."""
    versions = list_versions(packaged.home, "dispatch")
    assert [version.variant for version in versions] == ["first", "first", "random_forest"]
    assert versions[0].tag < versions[1].tag
    for version in versions:
        assert version.sha256 == packaged.trained[version.tag].manifest.sha256
        assert version.metrics == {"auc": 0.5}
        assert version.created == "2026-01-01T00:00:00+00:00"
    assert [version.family for version in list_versions(packaged.home, "other")] == ["other"]
    assert list_versions(packaged.home, "nothing") == []


def test_each_bento_holds_its_own_model(packaged: Packaged) -> None:
    """Builds that ran side by side did not mix, and BentoML's store has the models under the same tags."""
    for tag, trained in packaged.trained.items():
        assert show(packaged.home, tag) == trained.manifest
    assert model_tags(packaged.home) == sorted(packaged.trained)


def test_nothing_but_bentos_is_left_behind(packaged: Packaged) -> None:
    """No scratch folders."""
    assert {path.name for path in packaged.home.bentos.iterdir()} == {
        ".lock",
        *(exact_tag(tag)[0] for tag in packaged.trained),
    }


def test_the_folder_is_an_image_context(packaged: Packaged) -> None:
    """A Dockerfile, pinned packages, the server's sources and no others, and the path on which they are found."""
    folder = packaged.home.bento(packaged.tag("first"))
    dockerfile = (folder / "env/docker/Dockerfile").read_text()
    assert "ARG PYTHONPATH=/home/bentoml/bento/src:/home/bentoml/bento/src/protos/gen\n" in dockerfile
    requirements = (folder / "env/python/requirements.txt").read_text().split()
    assert all("==" in requirement for requirement in requirements)
    assert {"grpcio", "onnxruntime", "bentoml"} <= {requirement.partition("==")[0] for requirement in requirements}
    source = folder / "src"
    assert sorted(path.name for path in (source / "services").iterdir()) == ["__init__.py", "model_server", "runtime"]
    assert not (source / "router").exists()
    bento = yaml.safe_load((folder / "bento.yaml").read_text())
    assert bento["args"] == {"variant": "first", "model_tag": packaged.tag("first")}


@contextmanager
def serving_itself(folder: Path) -> Iterator[str]:
    """Runs the server that is in the bento as the image does; gives its address."""
    environment = {**os.environ, "PYTHONPATH": f"{folder / 'src'}:{folder / 'src/protos/gen'}"}
    source = "import sys, services.model_server.__main__ as m; print(m.__file__, flush=True); sys.exit(m.main())"
    command = [sys.executable, "-c", source, "--bento", str(folder), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(str(folder / "src"))
            yield json.loads(process.stdout.readline())["grpc"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


async def served(folder: Path, values: Matrix) -> Matrix:
    """Asks the server that is in the bento."""
    with serving_itself(folder) as address:
        async with calling(address) as caller:
            stream = caller.stream()
            await stream.write(frame(1, [values]).SerializeToString())
            answers, _ = await results(stream, 1)
            return answers[1]


LOAD = """
import json, sys
import bentoml
service = bentoml.load(sys.argv[1])()
print(json.dumps([service.describe(), service.predict(rows=json.load(sys.stdin))]))
"""


def loaded(folder: Path, values: Matrix, store: Path) -> tuple[dict[str, str], Matrix]:
    """Loads the bento with BentoML, with an empty store of its own, and asks it."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)],
        input=json.dumps(values.tolist()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "BENTOML_HOME": str(store), "BENTOML_DO_NOT_TRACK": "true"},
    )
    assert done.returncode == 0, done.stderr
    said, answers = json.loads(done.stdout)
    return said, np.array(answers, np.float32)


async def test_the_bento_answers_the_same_served_and_loaded(packaged: Packaged, tmp_path: Path) -> None:
    """The model server from the bento's own sources, and BentoML's service from the same folder."""
    tag = packaged.tag("random_forest")
    folder, trained, values = packaged.home.bento(tag), packaged.trained[tag], rows(20)
    by_server = await served(folder, values)
    said, by_bentoml = await asyncio.to_thread(loaded, folder, values, tmp_path)
    np.testing.assert_array_equal(by_server, by_bentoml)
    np.testing.assert_allclose(by_server, trained.answers(values), atol=1e-6)
    assert said["variant"] == "random_forest"
    assert said["sha256"] == trained.manifest.sha256


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str, str]:
    """A home with two versions of one variant, to spoil."""
    home = Home(tmp_path_factory.mktemp("other"))
    old = package(linear(seed=1), home, clock=lambda: START)
    return home, old, package(linear(seed=2), home, clock=lambda: START + timedelta(days=1))


def test_a_second_package_of_the_same_moment_is_refused_and_leaves_the_first(other: tuple[Home, str, str]) -> None:
    """One sentence, no scratch folder, and BentoML's store as it was."""
    home, old, new = other
    with pytest.raises(FailedPrecondition, match="is packaged already"):
        package(linear(seed=1), home, clock=lambda: START)
    assert model_tags(home) == [old, new]
    assert show(home, old).sha256 == linear(seed=1).manifest.sha256
    assert not list(home.bentos.glob(".packaging-*"))


def test_exactly_one_version_is_deleted(other: tuple[Home, str, str]) -> None:
    """A bare name, a prefix and :latest delete nothing."""
    home, old, new = other
    name, version = exact_tag(new)
    for tag in (name, f"{name}:latest", f"{name}:", "", f"{name}:../{version}", f"../{name}:{version}"):
        with pytest.raises(InvalidArgument, match="is not an exact tag"):
            delete(home, tag)
    with pytest.raises(NotFound):
        delete(home, f"{name}:{version[:-1]}")
    assert model_tags(home) == [old, new]
    delete(home, new)
    assert model_tags(home) == [old]
    assert [found.tag for found in list_versions(home, "dispatch")] == [old]
    with pytest.raises(NotFound):
        delete(home, new)


def test_a_changed_model_file_is_noticed(other: tuple[Home, str, str]) -> None:
    """BentoML itself checks nothing."""
    home, old, _ = other
    next(home.bento(old).glob("models/*/*/model.onnx")).write_bytes(linear(seed=3).onnx)
    with pytest.raises(FailedPrecondition, match="SHA-256 differs"):
        show(home, old)


@pytest.mark.parametrize("tag", ["turnout-dispatch-linear", "turnout-dispatch-linear:latest", "a:b:c", "A:b", "a:/b"])
def test_only_exact_tags_are_looked_up(tmp_path: Path, tag: str) -> None:
    """Neither a prefix nor the newest."""
    with pytest.raises(InvalidArgument, match="never :latest"):
        show(Home(tmp_path), tag)


def test_an_unknown_tag_is_not_found(tmp_path: Path) -> None:
    """The sentence says how to see those that are there."""
    with pytest.raises(NotFound, match="turnout models list"):
        show(Home(tmp_path), "turnout-dispatch-linear:v1")


def test_listed_tags_can_be_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long tag stands in one line of a terminal of 80 columns."""
    tag = "turnout-dispatch-gradient-boosting:20261121-164237643-c2b196a9"
    write_bento(Home(tmp_path).bentos / tag.partition(":")[0] / tag.partition(":")[2], linear())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TURNOUT_HOME", str(tmp_path))
    assert main.run(["models", "list", "dispatch", "-c", str(tmp_path / "none.yaml")]) == 0
    assert tag in capsys.readouterr().out


def test_folders_that_are_of_no_use_are_not_listed(tmp_path: Path) -> None:
    """An unreadable manifest, none at all, and a name that is no tag."""
    home = Home(tmp_path)
    write_bento(home.bentos / "turnout-dispatch-linear" / "v1", linear())
    write_bento(home.bentos / "turnout-dispatch-linear" / "latest", linear())
    spoiled = write_bento(home.bentos / "turnout-dispatch-linear" / "v2", linear())
    next(spoiled.glob("models/*/*/turnout.json")).write_text("{")
    (home.bentos / "turnout-dispatch-linear" / "v3").mkdir()
    assert [version.tag for version in list_versions(home, "dispatch")] == ["turnout-dispatch-linear:v1"]


def test_a_graph_that_is_not_the_manifests_is_not_packaged(tmp_path: Path) -> None:
    """Before BentoML is asked for anything."""
    made = linear()
    with pytest.raises(FailedPrecondition, match="train the variant again"):
        package(replace(made, onnx=made.onnx + b"!"), Home(tmp_path))
    assert not Home(tmp_path).bentoml.exists()


def test_names_that_are_too_long_are_refused() -> None:
    """BentoML and Kubernetes take 63 characters."""
    assert bento_name("deployment_risk", "gradient_boosting") == "turnout-deployment-risk-gradient-boosting"
    with pytest.raises(InvalidArgument, match="at most 63 characters"):
        bento_name("f" * 40, "v" * 40)


def test_the_width_of_the_model_is_the_manifests(packaged: Packaged) -> None:
    """What a router needs to know of the tensor is in the bento."""
    assert len(show(packaged.home, packaged.tag("first")).features) == FEATURES
