"""Expected performance before the labels arrive: confidence-based performance estimation (CBPE).

Where probabilities mean what they say, they tell how often the label that follows from them is right. They are first
recalibrated on the labelled past; doubt about that map, how much it moved within that past, and the chance of the
outcomes enter the interval. Sources: the method as NannyML describes it; the delta method; DerSimonian and Laird (1986)
for the moves. All rests on one assumption: what the probabilities meant in the labelled past is what they mean now, but
for moves as large as that past knew. Where it is known or likely to be violated there is no estimate but a reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import chdtrc

from monitoring.drift.recalibration import Recalibration, log_odds
from monitoring.drift.results import Verdict
from monitoring.validation.binary import BinaryStatistics
from monitoring.validation.estimates import CONFIDENCE, Estimate, Floats, area_under_curve, normal_quantile
from services.runtime.errors import InvalidArgument

MINIMUM_LABELS: Final = 500
MINIMUM_DECISIONS: Final = 100
MINIMUM_BLOCKS: Final = 4
"""Blocks of the labelled past from which on they tell how much it moves."""
_BLOCK_LABELS: Final = 30
_UNSEEN_SHARE: Final = 0.05
_OUTSIDE_SHARE: Final = 0.1
_FEW_LABELS: Final = 5.0
_NEIGHBOURHOOD: Final = 0.05
_TOLERANCE: Final = 0.03
_SURE: Final = 1e-3
_GROUPS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlabelled:
    """Decisions without labels, by the same equal bins of the prediction: number and sum of predictions, [bins]."""

    counts: Floats
    predictions: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is to be expected of the unlabelled decisions once their outcomes are known."""

    decisions: int
    true_positives: float
    false_positives: float
    true_negatives: float
    false_negatives: float
    accuracy: Estimate
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None
    auc: Estimate | None
    brier: Estimate


@dataclass(frozen=True, slots=True)
class LabelFree:
    """An estimate, or the reasons why there is none; exactly one of the two is there."""

    expected: Expected | None
    reasons: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether the assumption is not known to be violated."""
        return self.expected is not None


def expected_performance(
    past: BinaryStatistics,
    now: Unlabelled,
    *,
    blocks: Sequence[BinaryStatistics] = (),
    recent: BinaryStatistics | None = None,
    concept: Verdict = Verdict.NOT_ENOUGH_DATA,
    outside: float = 0.0,
    confidence: float = CONFIDENCE,
) -> LabelFree:
    """Estimates the performance on `now` from what the probabilities meant in `past`.

    `blocks` are `past` in pieces of equal time; with four or more of at least 30 labels the interval knows how much
    success moves from one to the next. `recent` are labelled decisions after `past`, to check the map on; `concept` is
    what the monitor of concept drift says; `outside` the share of rows with a feature outside of the reference.

    Raises:
        InvalidArgument: the bins differ.
    """
    if now.counts.shape != past.counts.shape or now.predictions.shape != past.counts.shape:
        raise InvalidArgument("bins", "labelled and unlabelled decisions have the same bins")
    reasons = _too_few(past, now)
    if reasons:
        return LabelFree(None, reasons)
    relation = Recalibration(_tally(past))
    reasons = (*_unseen(past, now), *_badly_calibrated(relation, past, "the labelled past"))
    if recent is not None:
        reasons += _badly_calibrated(relation, recent, "recently labelled decisions")
    if concept is Verdict.DRIFT:
        reasons += ("the relation of outcome and prediction has changed (concept drift)",)
    if outside > _OUTSIDE_SHARE:
        reasons += (f"{outside:.0%} of the rows lie outside of the reference's features, over {_OUTSIDE_SHARE:.0%}",)
    if reasons:
        return LabelFree(None, reasons)
    return LabelFree(_expected(relation, now, _movement(relation, blocks), confidence), ())


def _too_few(past: BinaryStatistics, now: Unlabelled) -> tuple[str, ...]:
    reasons: tuple[str, ...] = ()
    if past.decisions < MINIMUM_LABELS:
        reasons += (f"{past.decisions} of the {MINIMUM_LABELS} labelled decisions that are needed",)
    if now.counts.sum() < MINIMUM_DECISIONS:
        reasons += (f"{int(now.counts.sum())} of the {MINIMUM_DECISIONS} decisions without an outcome that are needed",)
    return reasons


def _tally(past: BinaryStatistics) -> Floats:
    means = past.predictions / np.maximum(past.counts, 1)
    return np.stack((past.counts, past.counts * log_odds(means), past.outcomes), axis=1)


def _unseen(past: BinaryStatistics, now: Unlabelled) -> tuple[str, ...]:
    """A prediction with almost no labels within 0.05 of it was never checked."""
    reach = max(1, round(_NEIGHBOURHOOD * (bins := len(past.counts))))
    near = np.convolve(past.counts, np.ones(2 * reach + 1))[reach : reach + bins]
    share = float(now.counts[near < _FEW_LABELS].sum() / now.counts.sum())
    if share <= _UNSEEN_SHARE:
        return ()
    return (f"{share:.0%} of the predictions lie where the labelled past has none, over {_UNSEEN_SHARE:.0%}",)


def _badly_calibrated(relation: Recalibration, labelled: BinaryStatistics, name: str) -> tuple[str, ...]:
    """Holds the map against labels (Hosmer and Lemeshow's test), by tenths of the decisions."""
    used = labelled.counts > 0
    if not used.any():
        return ()
    counts, outcomes = labelled.counts[used], labelled.outcomes[used]
    share = relation.band(labelled.predictions[used] / counts)[1]
    groups = np.minimum((np.cumsum(counts) - counts) / counts.sum() * _GROUPS, _GROUPS - 1).astype(np.int64)
    total, expected, observed, variance = (
        np.bincount(groups, weights=weights, minlength=_GROUPS)
        for weights in (counts, counts * share, outcomes, counts * share * (1 - share))
    )
    filled = variance > 0
    statistic = float(((observed - expected)[filled] ** 2 / variance[filled]).sum())
    gap = float(np.abs(observed - expected).sum() / total.sum())
    if chdtrc(int(filled.sum()), statistic) >= _SURE or gap <= _TOLERANCE:
        return ()
    return (f"on {name} the recalibrated probabilities are off by {gap:.3f} on average, over {_TOLERANCE:g}",)


def _movement(relation: Recalibration, blocks: Sequence[BinaryStatistics]) -> float:
    """Gives the variance of the log odds of success among blocks, beyond what chance explains (a random effect)."""
    shifts, weights = [], []
    for block in blocks:
        if block.decisions < _BLOCK_LABELS:
            continue
        used = block.counts > 0
        counts = block.counts[used]
        share = relation.band(block.predictions[used] / counts)[1]
        information = float(counts @ (share * (1 - share)))
        if information > 0:
            # One step of Newton's method from "as in the whole past".
            shifts.append(float(block.outcomes[used].sum() - counts @ share) / information)
            weights.append(information)
    if len(shifts) < MINIMUM_BLOCKS:
        return 0.0
    shift, weight = np.array(shifts), np.array(weights)
    spread = weight @ (shift - weight @ shift / weight.sum()) ** 2
    return max(0.0, float((spread - (len(shifts) - 1)) / (weight.sum() - weight @ weight / weight.sum())))


Metric = Callable[[Floats, Floats], float]
"""From expected outcomes and counts by bin, both [bins], to a metric; NaN where it is not defined."""


def _expected(relation: Recalibration, now: Unlabelled, movement: float, confidence: float) -> Expected:
    used = now.counts > 0
    counts = now.counts[used]
    predicted = now.predictions[used] / counts
    # 0.5 is an edge of the bins, so the label is the same within a bin.
    said = np.flatnonzero(used) >= len(now.counts) // 2
    share = relation.band(predicted)[1]
    hits = counts * share
    slopes = relation.slopes(predicted) * counts[:, None]

    def measured(metric: Metric) -> Estimate | None:
        value = metric(hits, counts)
        if math.isnan(value):
            return None
        gradient = _gradient(metric, hits, counts)
        chance = float(gradient**2 @ (hits * (1 - share)))
        doubt = gradient @ slopes
        moved = movement * float(gradient @ (hits * (1 - share))) ** 2
        half = normal_quantile(confidence) * math.sqrt(chance + float(doubt @ relation.covariance @ doubt) + moved)
        return Estimate(value, max(0.0, value - half), min(1.0, value + half))

    def accuracy(positive: Floats, total: Floats) -> float:
        return float(np.where(said, positive, total - positive).sum() / total.sum())

    def precision(positive: Floats, total: Floats) -> float:
        return float(positive[said].sum() / total[said].sum()) if said.any() else math.nan

    def recall(positive: Floats, _: Floats) -> float:
        return float(positive[said].sum() / positive.sum()) if positive.sum() > 0 else math.nan

    def f1(positive: Floats, total: Floats) -> float:
        whole = float(total[said].sum() + positive.sum())
        return 2 * float(positive[said].sum()) / whole if whole > 0 else math.nan

    def auc(positive: Floats, total: Floats) -> float:
        area = area_under_curve(positive, total - positive)
        return area[0].value if area else math.nan

    def brier(positive: Floats, total: Floats) -> float:
        return float((positive * (1 - predicted) ** 2 + (total - positive) * predicted**2).sum() / total.sum())

    right, squared = measured(accuracy), measured(brier)
    assert right is not None
    assert squared is not None
    return Expected(
        decisions=int(counts.sum()),
        true_positives=float(hits[said].sum()),
        false_positives=float((counts - hits)[said].sum()),
        true_negatives=float((counts - hits)[~said].sum()),
        false_negatives=float(hits[~said].sum()),
        accuracy=right,
        precision=measured(precision),
        recall=measured(recall),
        f1=measured(f1),
        auc=measured(auc),
        brier=squared,
    )


def _gradient(metric: Metric, hits: Floats, counts: Floats) -> Floats:
    """Slope of the metric in each bin's expected outcomes, by central differences."""
    slopes = np.empty(len(hits))
    for place in range(len(hits)):
        step = np.zeros(len(hits))
        step[place] = 1e-3 * max(min(hits[place], counts[place] - hits[place]), 1e-9)
        slopes[place] = (metric(hits + step, counts) - metric(hits - step, counts)) / (2 * step[place])
    return slopes
