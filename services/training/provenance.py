"""Where a variant comes from: data, code, libraries, hyper-parameters; and the reference rows that explain it."""

from __future__ import annotations

import hashlib
import importlib
import math
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from bentos.family import Family
from services.training.dataset import Dataset, Matrix, Split

BACKGROUND_ROWS: Final = 16
_LIBRARIES: Final = ("numpy", "scikit-learn", "xgboost-cpu", "lightgbm", "onnx", "onnxruntime")


def provenance(
    family: Family, data: Dataset, split: Split, *, seed: int, skipped: int, now: datetime
) -> dict[str, Any]:
    """Gives all that decides what a training gives, and `now`; `skipped` counts the unusable rows of the source."""
    return {
        "data_sha256": data.fingerprint(),
        "rows": {
            "train": len(split.train),
            "calibration": len(split.calibration),
            "test": len(split.test),
            "skipped": skipped,
        },
        "from": _moment(data.at[0]),
        "to": _moment(data.at[-1]),
        "test_from": _moment(split.test.at[0]) if len(split.test) else None,
        "code_sha256": code_digest(family),
        "rules_version": family.rules_version,
        "seed": seed,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "created_at": now.isoformat(timespec="seconds"),
    }


def hyper_parameters(estimator: Any) -> dict[str, Any]:
    """Gives an estimator's kind and its plain parameters, those of its members too."""
    plain = {name: value for name, value in estimator.get_params(deep=True).items() if _plain(value)}
    return {"estimator": type(estimator).__name__, **plain}


def background(features: Matrix, seed: int) -> tuple[tuple[float | None, ...], ...]:
    """Draws up to 16 rows, in order of time, as reference for Shapley values; None for missing."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:BACKGROUND_ROWS])
    return tuple(tuple(None if math.isnan(value) else value for value in row) for row in features[rows].tolist())


def bounds(features: Matrix) -> tuple[tuple[float | None, float | None], ...]:
    """Gives each feature's 0.1 % and 99.9 % quantile, both values that occurred; None where it was never known."""
    found: list[tuple[float | None, float | None]] = []
    for column in np.asarray(features).T:
        known = column[~np.isnan(column)]
        if len(known):
            low = float(np.quantile(known, 0.001, method="lower"))
            found.append((low, float(np.quantile(known, 0.999, method="higher"))))
        else:
            found.append((None, None))
    return tuple(found)


def code_digest(family: Family) -> str:
    """Gives the SHA-256 of the sources that decide what a training gives: the family's and training's own."""
    package = importlib.import_module(f"bentos.{family.name}")
    digest = hashlib.sha256()
    for folder in (*map(Path, package.__path__), Path(__file__).parent):
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_plain, value))
    # JSON knows neither NaN nor infinities.
    return isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


def _moment(at: float) -> str:
    return datetime.fromtimestamp(float(at), UTC).isoformat()
