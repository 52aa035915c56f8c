"""What a window keeps of a column: enough to compare two windows, mergeable, of bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from datasketches import kll_doubles_sketch, kll_floats_sketch
from numpy.typing import NDArray

from monitoring.drift import state
from monitoring.drift.binning import Kind
from monitoring.drift.control import Floats
from monitoring.drift.results import Window
from services.runtime.errors import InvalidArgument

SKETCH_K: Final = 200
"""Size of the sketches made here; ones of other sizes can be compared, but not merged without loss."""
MAX_CODES: Final = 4_096


@dataclass(frozen=True, slots=True)
class NumberSummary:
    """Numbers of a window: how many are missing, and a KLL sketch (of floats or doubles) of the others."""

    missing: int
    sketch: Any

    @staticmethod
    def of(values: NDArray[np.floating]) -> NumberSummary:
        """Summarises values [n]; NaN is missing."""
        known = values[~np.isnan(values)]
        sketch = kll_floats_sketch(SKETCH_K)
        sketch.update(np.ascontiguousarray(known, dtype=np.float32))
        return NumberSummary(len(values) - len(known), sketch)

    @property
    def known(self) -> int:
        """Values that are not missing."""
        return int(self.sketch.n)

    @property
    def rank_error(self) -> float:
        """By how much a rank may be wrong, as a share (with 99 % confidence); 0 while the sketch holds every value."""
        return float(self.sketch.normalized_rank_error(as_pmf=False)) if self.sketch.is_estimation_mode() else 0.0

    def share_upto(self, points: Floats, *, inclusive: bool = True) -> Floats:
        """Gives the share of known values at most each point (under it, when not inclusive)."""
        return np.array([self.sketch.get_rank(float(point), inclusive) for point in points])

    def quantiles(self, shares: Floats) -> Floats:
        """Gives the values under which these shares of the known values lie."""
        return np.array(self.sketch.get_quantiles(shares.tolist(), inclusive=True), dtype=np.float64)

    def merge(self, other: NumberSummary) -> NumberSummary:
        """Gives the summary of both windows' values."""
        kind = kll_doubles_sketch if isinstance(self.sketch, kll_doubles_sketch) else kll_floats_sketch
        merged = kind.deserialize(self.sketch.serialize())
        merged.merge(other.sketch)
        return NumberSummary(self.missing + other.missing, merged)


@dataclass(frozen=True, slots=True)
class CategorySummary:
    """Categories of a window: how many are missing, and how often each code occurred, [codes]."""

    missing: int
    counts: NDArray[np.int64]

    @staticmethod
    def of(values: NDArray[np.floating], codes: int) -> CategorySummary:
        """Summarises codes 0 to `codes` - 1, [n]; NaN is missing.

        Raises:
            InvalidArgument: a code is out of range.
        """
        known = values[~np.isnan(values)]
        if not 1 <= codes <= MAX_CODES or np.any((known < 0) | (known >= codes)):
            raise InvalidArgument("codes", f"codes are from 0 to {codes - 1}, and there are at most {MAX_CODES}")
        counts = np.bincount(known.astype(np.int64), minlength=codes)
        return CategorySummary(len(values) - len(known), counts.astype(np.int64))

    @property
    def known(self) -> int:
        """Values that are not missing."""
        return int(self.counts.sum())

    def merge(self, other: CategorySummary) -> CategorySummary:
        """Gives the summary of both windows' values; a code that one of them does not have has no values there."""
        counts = np.zeros(max(len(self.counts), len(other.counts)), np.int64)
        counts[: len(self.counts)] += self.counts
        counts[: len(other.counts)] += other.counts
        return CategorySummary(self.missing + other.missing, counts)


Summary = NumberSummary | CategorySummary


@dataclass(frozen=True, slots=True)
class WindowSummary:
    """A window: its features by name in the schema's order, its answers, and how many rows broke the schema."""

    window: Window
    features: Mapping[str, Summary]
    answers: Mapping[str, NumberSummary]
    """`score` and `confidence`."""
    violations: int = 0

    @staticmethod
    def of(
        window: Window, rows: NDArray[np.float32], names: tuple[str, ...], kinds: tuple[Kind, ...], codes: int = 64
    ) -> WindowSummary:
        """Summarises rows [n, features] without answers."""
        features: dict[str, Summary] = {}
        for column, (name, kind) in enumerate(zip(names, kinds, strict=True)):
            values = rows[:, column]
            features[name] = NumberSummary.of(values) if kind is Kind.NUMBER else CategorySummary.of(values, codes)
        return WindowSummary(window, features, {})

    def merge(self, other: WindowSummary) -> WindowSummary:
        """Gives the summary of both windows; their features must be the same.

        Raises:
            InvalidArgument: the windows are of different features.
        """
        if self.features.keys() != other.features.keys() or self.answers.keys() != other.answers.keys():
            raise InvalidArgument("features", "windows of different features cannot be merged")
        mine, theirs = self.window, other.window
        window = Window(mine.decisions + theirs.decisions, min(mine.start, theirs.start), max(mine.end, theirs.end))
        features = {name: _merged(summary, other.features[name]) for name, summary in self.features.items()}
        answers = {name: summary.merge(other.answers[name]) for name, summary in self.answers.items()}
        return WindowSummary(window, features, answers, self.violations + other.violations)

    def to_bytes(self) -> bytes:
        """Gives the whole summary."""
        arrays: dict[str, NDArray[Any]] = {}
        columns = []
        for part, summaries in (("features", self.features), ("answers", self.answers)):
            for name, summary in summaries.items():
                kind, array = _packed(summary)
                arrays[f"{part}.{name}"] = array
                columns.append([part, name, kind, summary.missing])
        window = [self.window.decisions, self.window.start, self.window.end]
        return state.pack("window", {"window": window, "columns": columns, "violations": self.violations}, arrays)

    @staticmethod
    def from_bytes(data: bytes) -> WindowSummary:
        """Restores a summary from `to_bytes`.

        Raises:
            InvalidArgument: the bytes are not a summary.
        """
        fields, arrays = state.unpack("window", data)
        with state.checked("window"):
            parts: dict[str, dict[str, Any]] = {"features": {}, "answers": {}}
            for part, name, kind, missing in fields["columns"]:
                parts[part][name] = _unpacked(kind, int(missing), arrays[f"{part}.{name}"])
            window = Window(*fields["window"])
            return WindowSummary(window, parts["features"], parts["answers"], int(fields["violations"]))


def _merged(mine: Summary, theirs: Summary) -> Summary:
    if isinstance(mine, NumberSummary) and isinstance(theirs, NumberSummary):
        return mine.merge(theirs)
    if isinstance(mine, CategorySummary) and isinstance(theirs, CategorySummary):
        return mine.merge(theirs)
    raise InvalidArgument("features", "a number cannot be merged with a category")


def _packed(summary: Summary) -> tuple[str, NDArray[Any]]:
    if isinstance(summary, CategorySummary):
        return "counts", summary.counts
    kind = "doubles" if isinstance(summary.sketch, kll_doubles_sketch) else "floats"
    return kind, np.frombuffer(summary.sketch.serialize(), np.uint8)


def _unpacked(kind: str, missing: int, array: NDArray[Any]) -> Summary:
    if kind == "counts":
        return CategorySummary(missing, array)
    sketch = kll_doubles_sketch if kind == "doubles" else kll_floats_sketch
    try:
        return NumberSummary(missing, sketch.deserialize(array.tobytes()))
    except RuntimeError as error:
        raise ValueError("damaged sketch") from error
