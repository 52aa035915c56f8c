"""Predicted numbers held against what happened, from sums that can be added up."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from monitoring.validation.estimates import CONFIDENCE, Estimate, Quality, mean, quality, wilson
from services.runtime.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberStatistics:
    """Sums over labelled predictions, error = prediction - outcome. Adding two field by field gives those of both."""

    decisions: int = 0
    errors: float = 0.0
    absolute_errors: float = 0.0
    squared_errors: float = 0.0
    fourth_powers: float = 0.0
    """Sum of error^4, for the interval of the RMSE; NaN when not known."""
    outcomes: float = 0.0
    squared_outcomes: float = 0.0
    absolute_outcomes: float = 0.0
    with_interval: int = 0
    """Predictions that came with an interval."""
    covered: int = 0
    """Those whose interval held the outcome."""

    @staticmethod
    def of(
        predictions: NDArray[np.floating],
        outcomes: NDArray[np.floating],
        low: NDArray[np.floating] | None = None,
        high: NDArray[np.floating] | None = None,
    ) -> NumberStatistics:
        """Takes labelled predictions, each array [n]; `low` and `high` are their intervals, NaN where there is none.

        Raises:
            InvalidArgument: a prediction or an outcome is not finite, or their numbers differ.
        """
        p, y = np.asarray(predictions, np.float64), np.asarray(outcomes, np.float64)
        if p.shape != y.shape or p.ndim != 1 or not (np.isfinite(p).all() and np.isfinite(y).all()):
            raise InvalidArgument("outcomes", "there is one finite outcome for each finite prediction")
        error = p - y
        known = np.zeros(len(p), np.bool_) if low is None or high is None else ~(np.isnan(low) | np.isnan(high))
        covered = known if low is None or high is None else known & (low <= y) & (y <= high)
        return NumberStatistics(
            decisions=len(p),
            errors=float(error.sum()),
            absolute_errors=float(np.abs(error).sum()),
            squared_errors=float((error**2).sum()),
            fourth_powers=float((error**4).sum()),
            outcomes=float(y.sum()),
            squared_outcomes=float((y**2).sum()),
            absolute_outcomes=float(np.abs(y).sum()),
            with_interval=int(known.sum()),
            covered=int(covered.sum()),
        )

    def merge(self, other: NumberStatistics) -> NumberStatistics:
        """Gives the statistics of both."""
        return NumberStatistics(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberReport:
    """How good numbers are; in the target's unit where nothing else is said."""

    decisions: int
    bias: Estimate | None
    """Mean error; above 0 means predicted too high."""
    mean_absolute_error: Estimate | None
    root_mean_squared_error: Estimate | None
    explained_variance: float
    """1 - squared errors / squared deviations of the outcomes (R²); NaN where outcomes do not vary."""
    coverage: Estimate | None
    """Share of the predictions' intervals that held the outcome; None when none had one."""
    closeness: Estimate | None
    """1 - mean absolute error / mean absolute outcome: the share whose level is `quality`. None when all were 0."""
    quality: Quality


def number_report(statistics: NumberStatistics, confidence: float = CONFIDENCE) -> NumberReport:
    """Gives all metrics with intervals of `confidence`."""
    n = statistics.decisions
    absolute = mean(n, statistics.absolute_errors, statistics.squared_errors, confidence)
    spread = statistics.squared_outcomes - statistics.outcomes**2 / n if n else 0.0
    closeness = None
    if absolute is not None and statistics.absolute_outcomes > 0:
        scale = statistics.absolute_outcomes / n
        closeness = Estimate(1 - absolute.value / scale, 1 - absolute.high / scale, 1 - absolute.low / scale)
    return NumberReport(
        decisions=n,
        bias=mean(n, statistics.errors, statistics.squared_errors, confidence),
        mean_absolute_error=absolute,
        root_mean_squared_error=_root(statistics, confidence),
        explained_variance=1 - statistics.squared_errors / spread if spread > 0 else math.nan,
        coverage=wilson(statistics.covered, statistics.with_interval, confidence),
        closeness=closeness,
        quality=quality(closeness, n),
    )


def _root(statistics: NumberStatistics, confidence: float) -> Estimate | None:
    """RMSE, its interval by the delta method on the mean squared error."""
    squared = mean(statistics.decisions, statistics.squared_errors, statistics.fourth_powers, confidence)
    if squared is None:
        return None
    root = math.sqrt(squared.value)
    if math.isnan(squared.low) or root == 0:
        return Estimate(root, root if root == 0 else math.nan, root if root == 0 else math.nan)
    half = (squared.high - squared.value) / (2 * root)
    return Estimate(root, max(0.0, root - half), root + half)
