"""The manifest survives the disk, and a model file that is not the packaged one is never opened."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.manifest import MANIFEST, Manifest, read, verified_model
from services.runtime.errors import FailedPrecondition

CONTENT = b"not really a graph"
MADE = Manifest(
    family="dispatch",
    variant="xgboost",
    features=("a", "b"),
    outputs=("p",),
    schema_digest=2**64 - 1,
    input_name="x",
    output_name="p",
    model_file="model.onnx",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    background=((1.0, None), (0.1, -3.5)),
    metrics={"auc": 0.9},
    provenance={"created_at": "2026-01-01T00:00:00+00:00"},
)


def written(folder: Path, manifest: Manifest = MADE) -> Path:
    (folder / MANIFEST).write_text(manifest.dumps())
    (folder / "model.onnx").write_bytes(CONTENT)
    return folder


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    """Digests of 64 bits, missing background values and tuples all survive JSON."""
    assert read(written(tmp_path)) == MADE


@given(st.lists(st.tuples(st.none() | st.floats(allow_nan=False, width=32), st.floats(-1, 1)), max_size=5))
def test_background_rows_survive_exactly(
    tmp_path_factory: pytest.TempPathFactory, background: list[tuple[float | None, float]]
) -> None:
    """Whatever finite or missing values the sample of training rows holds."""
    manifest = replace(MADE, background=tuple(background))
    assert read(written(tmp_path_factory.mktemp("m"), manifest)) == manifest


def test_the_packaged_file_is_given(tmp_path: Path) -> None:
    """The digest matches, so the bytes come back."""
    assert verified_model(written(tmp_path), MADE) == CONTENT


@pytest.mark.parametrize("change", [b"", CONTENT + b"!", CONTENT[:-1]])
def test_another_file_is_refused(tmp_path: Path, change: bytes) -> None:
    """One byte more or less is another model."""
    (written(tmp_path) / "model.onnx").write_bytes(change)
    with pytest.raises(FailedPrecondition, match="SHA-256 differs"):
        verified_model(tmp_path, MADE)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/hostname", "deeper/model.onnx"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    """A manifest cannot point at other files of the machine."""
    with pytest.raises(FailedPrecondition, match="plain file name"):
        verified_model(written(tmp_path), replace(MADE, model_file=name))


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    """The sentence says which file."""
    (written(tmp_path) / "model.onnx").unlink()
    with pytest.raises(FailedPrecondition, match=r"model\.onnx cannot be read"):
        verified_model(tmp_path, MADE)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    """The sentence says which file."""
    with pytest.raises(FailedPrecondition, match=r"turnout\.json cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        json.dumps({**json.loads(MADE.dumps()), "format": 2}),
        json.dumps({**json.loads(MADE.dumps()), "unheard_of": 1}),
        json.dumps({k: v for k, v in json.loads(MADE.dumps()).items() if k != "sha256"}),
        json.dumps({**json.loads(MADE.dumps()), "background": 3}),
    ],
)
def test_what_is_no_manifest_of_this_format_is_refused(tmp_path: Path, text: str) -> None:
    """In one sentence that says what to do."""
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(FailedPrecondition, match="package the variant again"):
        read(tmp_path)
