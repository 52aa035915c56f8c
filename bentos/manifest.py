"""The manifest of a packaged variant: a JSON file beside the ONNX file in every bento.

It holds all that a model server needs, so that a server can run the folder without BentoML, and all that a person
asks later: what the variant was trained on, with which code, and how good it was.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from services.runtime.errors import FailedPrecondition

MANIFEST: Final = "turnout.json"
"""Name of the manifest's file."""
FORMAT: Final = 1
"""Version of this layout; a server refuses any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a packaged variant is.

    The ONNX graph takes `input_name` float32 [rows, len(features)] (the raw vector of the schema, NaN for missing; all
    feature engineering is inside the graph) and gives `output_name` float32 [rows, len(outputs)].
    """

    family: str
    variant: str
    features: tuple[str, ...]
    outputs: tuple[str, ...]
    schema_digest: int
    input_name: str
    output_name: str
    model_file: str
    """Name of the ONNX file, in the manifest's folder."""
    sha256: str
    """Of the ONNX file, hexadecimal; verified before the file is opened."""
    background: tuple[tuple[float | None, ...], ...]
    """Reference rows for Shapley values: a small sample of the training rows, None for missing."""
    metrics: dict[str, Any]
    """Evaluation on the newest, held-out part of the data."""
    bounds: tuple[tuple[float | None, float | None], ...] = ()
    """For each feature the 0.1 % and 99.9 % quantile of the training rows, None where it was never known; empty in
    bentos of before."""
    provenance: dict[str, Any]
    """Data fingerprint, rows, time range, code version, hyper-parameters, seed, library versions, created_at."""

    def dumps(self) -> str:
        """Gives the file's text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"


def read(folder: Path) -> Manifest:
    """Reads the manifest in `folder`.

    Raises:
        FailedPrecondition: there is none, or it is not one of this format.
    """
    path = folder / MANIFEST
    try:
        fields = json.loads(path.read_text())
        if fields.pop("format", None) != FORMAT:
            raise FailedPrecondition(
                "manifest", f"{path} is not of manifest format {FORMAT}; package the variant again"
            )
        for name in ("features", "outputs"):
            fields[name] = tuple(fields[name])
        fields["background"] = tuple(tuple(row) for row in fields["background"])
        fields["bounds"] = tuple((low, high) for low, high in fields.get("bounds", ()))
        return Manifest(**fields)
    except OSError as error:
        raise FailedPrecondition("manifest", f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FailedPrecondition("manifest", f"{path} is not a manifest; package the variant again") from error


def verified_model(folder: Path, manifest: Manifest) -> bytes:
    """Reads the ONNX file and gives its bytes when they match the manifest's digest.

    Raises:
        FailedPrecondition: the file is missing or is not the one that was packaged.
    """
    path = folder / manifest.model_file
    if path.parent != folder:
        raise FailedPrecondition("model_file", "the manifest's model_file must be a plain file name")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FailedPrecondition("model_file", f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise FailedPrecondition("sha256", f"{path} is not the file that was packaged: its SHA-256 differs")
    return content
