"""Opens an exported bento: its tag, its manifest and its verified model file, and never a path outside of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from bentos.manifest import MANIFEST, Manifest, read, verified_model
from services.runtime.errors import FailedPrecondition
from services.runtime.yaml_tree import load

BENTO_FILE: Final = "bento.yaml"
_MAX_YAML_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a model server needs of a bento."""

    name: str
    """The bento's name, the part of the tag before the colon."""
    tag: str
    """The exact tag, name:version."""
    manifest: Manifest
    content: bytes
    """The ONNX file, its digest already verified."""


def open_bundle(folder: Path) -> Bundle:
    """Reads an exported bento.

    Raises:
        FailedPrecondition: the folder is no exported bento of one packaged variant, a path leads out of it, or the
            model file is not the one that was packaged.
    """
    root = folder.resolve()
    name, version = _tag(root)
    model_folder = _model_folder(root)
    manifest = read(model_folder)
    _confined(root, model_folder / manifest.model_file)
    content = verified_model(model_folder, manifest)
    if not manifest.features or not manifest.outputs:
        raise FailedPrecondition("manifest", f"the manifest in {model_folder} names no features or no outputs")
    return Bundle(name=name, tag=f"{name}:{version}", manifest=manifest, content=content)


def _tag(root: Path) -> tuple[str, str]:
    path = root / BENTO_FILE
    try:
        if path.stat().st_size > _MAX_YAML_BYTES:
            raise FailedPrecondition("bento", f"{path} is over {_MAX_YAML_BYTES} bytes")
        fields = load(_confined(root, path).read_text())
        name, version = fields["name"], fields["version"]
    except OSError as error:
        raise FailedPrecondition("bento", f"{root} is not an exported bento: {BENTO_FILE}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise FailedPrecondition("bento", f"{path} names no bento: it must hold a name and a version") from error
    if not isinstance(name, str) or not isinstance(version, str) or not name or not version:
        raise FailedPrecondition("bento", f"{path} names no bento: name and version must be texts")
    return name, version


def _model_folder(root: Path) -> Path:
    """Finds the one manifest: beside bento.yaml, or in the bento's folder of models (models/<name>/<version>)."""
    found = [path for pattern in (MANIFEST, f"models/*/*/{MANIFEST}") for path in root.glob(pattern)]
    if len(found) != 1:
        raise FailedPrecondition("bento", f"{root} must hold one {MANIFEST}, not {len(found)}: one variant a bento")
    return _confined(root, found[0]).parent


def _confined(root: Path, path: Path) -> Path:
    if not path.resolve().is_relative_to(root):
        raise FailedPrecondition("bento", f"{path} leads out of the bento's folder")
    return path
