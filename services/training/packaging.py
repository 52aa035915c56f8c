"""Packages a trained variant: model into BentoML's store, one bento a variant, exported as a folder.

The exported folder is everything that a server needs and the context of the image:

    docker build -f env/docker/Dockerfile -t <image> .
    docker run <image> python -m services.model_server --bento /home/bentoml/bento \
        --listen 0.0.0.0:8001 --metrics 0.0.0.0:8002

Its src/ holds the model server's own sources, and the image's PYTHONPATH points there; `bentoml serve` of the same
folder serves HTTP for experiments.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

from bentos.manifest import MANIFEST, Manifest, read, verified_model
from services.runtime.errors import FailedPrecondition
from services.runtime.home import Home
from services.training.store import ask_bentoml, bento_name, exact_tag, model_folder, writing

MODEL_FILE: Final = "model.onnx"
_ROOT: Final = Path(__file__).resolve().parents[2]
_SOURCES: Final = (
    "services/__init__.py",
    "services/runtime/*.py",
    "services/model_server/*.py",
    "bentos/*.py",
    "protos/gen/**/*.py",
)
"""What the model server consists of; families, training and the router stay out of the image."""
_SERVICE: Final = "services/training/bento_service.py"
_PACKAGES: Final = (
    "googleapis-common-protos",
    "grpcio",
    "grpcio-health-checking",
    "grpcio-reflection",
    "numpy",
    "onnxruntime",
    "prometheus-client",
    "protobuf",
    "pyyaml",
    "structlog",
)
"""What the model server imports, beside what BentoML adds for its own service."""
_IN_IMAGE: Final = "/home/bentoml/bento/src"


class Trained(Protocol):
    """A trained variant, as `services.training.pipeline.train` gives it."""

    @property
    def onnx(self) -> bytes:
        """The graph."""

    @property
    def manifest(self) -> Manifest:
        """What it is."""


def package(trained: Trained, home: Home, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> str:
    """Packages one variant and gives the exact tag of its bento, exported at `home.bento(tag)`.

    The version is the UTC time to the millisecond and the start of the model's SHA-256: versions of a variant sort
    by time. Nothing is left behind in the folder of exported bentos when a step fails.

    Raises:
        FailedPrecondition: the manifest does not fit the graph, or BentoML failed.
        InvalidArgument: family and variant give no name that BentoML takes.
        Aborted: another process kept the store for too long.
    """
    manifest = replace(trained.manifest, model_file=MODEL_FILE)
    digest = hashlib.sha256(trained.onnx).hexdigest()
    if digest != manifest.sha256:
        raise FailedPrecondition("sha256", "the manifest's SHA-256 is not the graph's; train the variant again")
    now = clock().astimezone(UTC)
    name = bento_name(manifest.family, manifest.variant)
    version = f"{now:%Y%m%d-%H%M%S}{now.microsecond // 1000:03d}-{digest[:8]}"
    tag = f"{name}:{version}"
    exact_tag(tag)
    with writing(home), tempfile.TemporaryDirectory(dir=home.bentos, prefix=".packaging-") as scratch:
        folder = Path(scratch)
        model = folder / "model"
        model.mkdir()
        (model / MODEL_FILE).write_bytes(trained.onnx)
        (model / MANIFEST).write_text(manifest.dumps())
        _lay_out(folder / "context")
        (folder / "bentofile.yaml").write_text(yaml.safe_dump(_bentofile(manifest, name), sort_keys=False))
        exported = folder / "bento"
        built = ask_bentoml(home, _request(manifest, name, version, folder))
        if built != tag:
            raise FailedPrecondition("bentoml", f"BentoML built {built!r} where {tag!r} was asked for")
        _check(exported, manifest)
        home.bento(tag).parent.mkdir(parents=True, exist_ok=True)
        exported.rename(home.bento(tag))
    return tag


def _lay_out(context: Path) -> None:
    """Copies what goes into the bento's src/, so that a build never walks over the whole checkout."""
    for pattern in _SOURCES:
        for path in sorted(_ROOT.glob(pattern)):
            target = context / path.relative_to(_ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    shutil.copyfile(_ROOT / _SERVICE, context / Path(_SERVICE).name)


def _bentofile(manifest: Manifest, name: str) -> dict[str, Any]:
    return {
        "service": "bento_service:TurnoutModel",
        "name": name,
        "description": f"Variant {manifest.variant} of the family {manifest.family}.",
        "labels": {"family": manifest.family, "variant": manifest.variant},
        "include": ["**"],
        "python": {
            "packages": [f"{package}=={installed(package)}" for package in _PACKAGES],
            # Locking would resolve on the network; the packages are pinned to what the tests ran with.
            "lock_packages": False,
        },
        "docker": {"python_version": f"{sys.version_info.major}.{sys.version_info.minor}"},
        # Becomes an ENV of the image; a local `bentoml serve` does not see it.
        "envs": [{"name": "PYTHONPATH", "value": f"{_IN_IMAGE}:{_IN_IMAGE}/protos/gen"}],
    }


def _request(manifest: Manifest, name: str, version: str, folder: Path) -> dict[str, Any]:
    return {
        "action": "package",
        "name": name,
        "version": version,
        "variant": manifest.variant,
        "model": str((folder / "model").resolve()),
        "bentofile": str((folder / "bentofile.yaml").resolve()),
        "context": str((folder / "context").resolve()),
        "export": str((folder / "bento").resolve()),
        "labels": {"family": manifest.family, "variant": manifest.variant},
        "metadata": {"sha256": manifest.sha256, "schema_digest": f"{manifest.schema_digest:016x}"},
    }


def _check(exported: Path, manifest: Manifest) -> None:
    """Verifies that the export holds the very model that was given: BentoML checks no digest."""
    folder = model_folder(exported)
    if read(folder).dumps() != manifest.dumps():
        raise FailedPrecondition("bentoml", "BentoML exported another manifest than the one that was packaged")
    verified_model(folder, manifest)
