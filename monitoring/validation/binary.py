"""Probabilities held against what happened, from statistics that can be added up: no rows are needed.

`BinaryStatistics` can be filled from pairs, or from any aggregate that has counts of the confusion matrix, sums of log
loss and squared error, and a table of (number, sum of predictions, sum of outcomes) by equal bins of the prediction.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitoring.drift import state
from monitoring.validation.estimates import (
    CONFIDENCE,
    Estimate,
    Floats,
    Quality,
    area_under_curve,
    mean,
    quality,
    wilson,
)
from services.runtime.errors import InvalidArgument

BINS: Final = 256
THRESHOLD: Final = 0.5
"""From this probability on the predicted label is 1."""
_CLIP: Final = 1e-15
_TABLE: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryStatistics:
    """Statistics of labelled probabilities; adding two of the same number of bins gives those of both."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    log_loss: float
    """Sum; probabilities are clipped to [1e-15, 1 - 1e-15]."""
    brier: float
    """Sum of squared errors."""
    log_loss_squares: float = math.nan
    """Sum of squares, for the interval; NaN when not known."""
    brier_squares: float = math.nan
    counts: Floats
    """Decisions by bin of the prediction, [bins]; an even number of bins of equal width."""
    predictions: Floats
    """Sums of predictions, [bins]."""
    outcomes: Floats
    """Sums of outcomes, [bins]."""

    def __post_init__(self) -> None:
        """Refuses tables that do not fit one another, and an odd number of bins (0.5 must be an edge)."""
        shapes = {self.counts.shape, self.predictions.shape, self.outcomes.shape}
        if len(shapes) != 1 or len(self.counts) % 2 or not len(self.counts):
            raise InvalidArgument("bins", "the tables have the same, even number of bins")

    @staticmethod
    def of(probabilities: NDArray[np.floating], outcomes: NDArray[np.floating], bins: int = BINS) -> BinaryStatistics:
        """Takes labelled decisions, both [n].

        Raises:
            InvalidArgument: a probability is not in [0, 1] or an outcome is neither 0 nor 1.
        """
        p, y = np.asarray(probabilities, np.float64), np.asarray(outcomes, np.float64)
        if p.shape != y.shape or p.ndim != 1:
            raise InvalidArgument("outcomes", "there is one outcome for each probability")
        if not np.all((p >= 0) & (p <= 1)):
            raise InvalidArgument("probabilities", "probabilities are from 0 to 1")
        if not np.all((y == 0) | (y == 1)):
            raise InvalidArgument("outcomes", "outcomes are 0 or 1")
        places = np.minimum((p * bins).astype(np.int64), bins - 1)
        clipped = np.clip(p, _CLIP, 1 - _CLIP)
        losses = -np.where(y == 1, np.log(clipped), np.log1p(-clipped))
        errors = (p - y) ** 2
        said, was = p >= THRESHOLD, y == 1
        return BinaryStatistics(
            true_positives=int((said & was).sum()),
            false_positives=int((said & ~was).sum()),
            true_negatives=int((~said & ~was).sum()),
            false_negatives=int((~said & was).sum()),
            log_loss=float(losses.sum()),
            brier=float(errors.sum()),
            log_loss_squares=float((losses**2).sum()),
            brier_squares=float((errors**2).sum()),
            counts=np.bincount(places, minlength=bins).astype(np.float64),
            predictions=np.bincount(places, weights=p, minlength=bins).astype(np.float64),
            outcomes=np.bincount(places, weights=y, minlength=bins).astype(np.float64),
        )

    @property
    def decisions(self) -> int:
        """Labelled decisions."""
        return self.true_positives + self.false_positives + self.true_negatives + self.false_negatives

    def merge(self, other: BinaryStatistics) -> BinaryStatistics:
        """Gives the statistics of both."""
        if len(self.counts) != len(other.counts):
            raise InvalidArgument("bins", "statistics with different numbers of bins cannot be merged")
        return BinaryStatistics(
            true_positives=self.true_positives + other.true_positives,
            false_positives=self.false_positives + other.false_positives,
            true_negatives=self.true_negatives + other.true_negatives,
            false_negatives=self.false_negatives + other.false_negatives,
            log_loss=self.log_loss + other.log_loss,
            brier=self.brier + other.brier,
            log_loss_squares=self.log_loss_squares + other.log_loss_squares,
            brier_squares=self.brier_squares + other.brier_squares,
            counts=self.counts + other.counts,
            predictions=self.predictions + other.predictions,
            outcomes=self.outcomes + other.outcomes,
        )

    def to_bytes(self) -> bytes:
        """Gives the whole statistics."""
        confusion = [self.true_positives, self.false_positives, self.true_negatives, self.false_negatives]
        sums = np.array([self.log_loss, self.brier, self.log_loss_squares, self.brier_squares])
        tables = np.stack((self.counts, self.predictions, self.outcomes))
        return state.pack("binary", {"confusion": confusion}, {"sums": sums, "tables": tables})

    @staticmethod
    def from_bytes(data: bytes) -> BinaryStatistics:
        """Restores statistics from `to_bytes`.

        Raises:
            InvalidArgument: the bytes are not such statistics.
        """
        fields, arrays = state.unpack("binary", data)
        with state.checked("binary"):
            tp, fp, tn, fn = (int(count) for count in fields["confusion"])
            log_loss, brier, log_loss_squares, brier_squares = arrays["sums"].tolist()
            counts, predictions, outcomes = arrays["tables"]
            return BinaryStatistics(
                true_positives=tp,
                false_positives=fp,
                true_negatives=tn,
                false_negatives=fn,
                log_loss=log_loss,
                brier=brier,
                log_loss_squares=log_loss_squares,
                brier_squares=brier_squares,
                counts=counts,
                predictions=predictions,
                outcomes=outcomes,
            )


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """Decisions whose predictions lie in [low, high): what was predicted on average, and how often it happened."""

    low: float
    high: float
    decisions: int
    predicted: float
    observed: Estimate


@dataclass(frozen=True, slots=True)
class BrierParts:
    """Brier score = reliability - resolution + uncertainty + within (Murphy 1973; Stephenson 2008 for `within`).

    `within` is what bins leave out: the spread of predictions inside of a bin and its covariance with outcomes.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryReport:
    """How good probabilities are. What cannot be said (precision without a positive prediction) is None."""

    decisions: int
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    accuracy: Estimate | None
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None
    auc: Estimate | None
    auc_error_bound: float
    """By how much bins may move the AUC; the interval of `auc` is widened by it. NaN without an AUC."""
    log_loss: Estimate | None
    brier: Estimate | None
    brier_parts: BrierParts | None
    expected_calibration_error: float
    """Mean distance of predicted and observed frequency over tenths of the prediction; NaN without decisions."""
    calibration: tuple[CalibrationRow, ...]
    quality: Quality


def binary_report(statistics: BinaryStatistics, confidence: float = CONFIDENCE) -> BinaryReport:
    """Gives all metrics with intervals of `confidence`. The level of quality is that of the accuracy."""
    tp, fp = statistics.true_positives, statistics.false_positives
    fn, n = statistics.false_negatives, statistics.decisions
    accuracy = wilson(tp + statistics.true_negatives, n, confidence)
    area = area_under_curve(statistics.outcomes, statistics.counts - statistics.outcomes, confidence)
    table = _table(statistics, confidence)
    gap = sum(row.decisions * abs(row.predicted - row.observed.value) for row in table)
    return BinaryReport(
        decisions=n,
        true_positives=tp,
        false_positives=fp,
        true_negatives=statistics.true_negatives,
        false_negatives=fn,
        accuracy=accuracy,
        precision=wilson(tp, tp + fp, confidence),
        recall=wilson(tp, tp + fn, confidence),
        f1=_f1(wilson(tp, tp + fp + fn, confidence)),
        auc=area[0] if area else None,
        auc_error_bound=area[1] if area else math.nan,
        log_loss=mean(n, statistics.log_loss, statistics.log_loss_squares, confidence),
        brier=mean(n, statistics.brier, statistics.brier_squares, confidence),
        brier_parts=_brier_parts(statistics),
        expected_calibration_error=gap / n if n else math.nan,
        calibration=table,
        quality=quality(accuracy, n),
    )


def _f1(jaccard: Estimate | None) -> Estimate | None:
    """F1 rises with the share j of hits among everything that is or was said to be positive: F1 = 2j / (1 + j)."""
    if jaccard is None:
        return None
    return Estimate(*(2 * share / (1 + share) for share in (jaccard.value, jaccard.low, jaccard.high)))


def _table(statistics: BinaryStatistics, confidence: float) -> tuple[CalibrationRow, ...]:
    bins = len(statistics.counts)
    edges = np.linspace(0, bins, min(_TABLE, bins) + 1).round().astype(np.int64)
    rows = []
    for first, last in itertools.pairwise(edges):
        count = float(statistics.counts[first:last].sum())
        observed = wilson(float(statistics.outcomes[first:last].sum()), count, confidence)
        if observed is not None:
            predicted = float(statistics.predictions[first:last].sum()) / count
            rows.append(CalibrationRow(float(first) / bins, float(last) / bins, int(count), predicted, observed))
    return tuple(rows)


def _brier_parts(statistics: BinaryStatistics) -> BrierParts | None:
    used = statistics.counts > 0
    counts, n = statistics.counts[used], statistics.counts.sum()
    if not n:
        return None
    predicted, observed = statistics.predictions[used] / counts, statistics.outcomes[used] / counts
    base = float(statistics.outcomes.sum() / n)
    reliability = float(counts @ (predicted - observed) ** 2 / n)
    resolution = float(counts @ (observed - base) ** 2 / n)
    uncertainty = base * (1 - base)
    return BrierParts(
        reliability, resolution, uncertainty, float(statistics.brier / n) - (reliability - resolution + uncertainty)
    )
