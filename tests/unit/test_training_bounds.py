"""What a variant was trained on, as its manifest says it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from bentos.manifest import MANIFEST, read
from services.training.provenance import bounds
from tests.integration.model_under_test import linear


def test_bounds_leave_out_one_row_in_a_thousand_at_either_end() -> None:
    """Both are values that occurred; a feature that was never known has none; missing values do not count."""
    rows = np.arange(10_000, dtype=np.float32)
    features = np.stack([rows, np.where(rows % 2 == 0, rows, np.nan), np.full_like(rows, np.nan)], axis=1)
    (low, high), (even_low, even_high), never = bounds(features)
    assert (low, high) == (9.0, 9990.0)
    assert even_low is not None
    assert even_low % 2 == 0
    assert even_high is not None
    assert 9980 <= even_high < 9999
    assert never == (None, None)


def test_a_manifest_keeps_its_bounds_and_one_of_before_has_none(tmp_path: Path) -> None:
    """Bentos that were packaged before bounds were written are still read."""
    manifest = replace(linear().manifest, bounds=((1.0, 2.5), (None, None)))
    (tmp_path / MANIFEST).write_text(manifest.dumps())
    assert read(tmp_path) == manifest
    before = {name: value for name, value in json.loads(manifest.dumps()).items() if name != "bounds"}
    (tmp_path / MANIFEST).write_text(json.dumps(before))
    assert read(tmp_path).bounds == ()
