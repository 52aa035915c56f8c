"""A measured quantity with its confidence interval, and the level of quality that it stands for.

Sources: Wilson (1927); DeLong, DeLong and Clarke-Pearson (1988); Hanley and McNeil (1982).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]
CONFIDENCE: Final = 0.95
MINIMUM: Final = 30
"""Labelled decisions under which no level is given."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its interval; `low` and `high` are NaN where the statistics do not tell the spread."""

    value: float
    low: float
    high: float


class Quality(Enum):
    """How good a variant is: SYSTEMS' levels of a share in [0, 1]."""

    EXCELLENT = "excellent"
    """From 95 % on."""
    GOOD = "good"
    """From 85 % on."""
    ACCEPTABLE = "acceptable"
    """From 70 % on."""
    POOR = "poor"
    NOT_ENOUGH_DATA = "not enough data"


_LEVELS: Final = (
    (0.95, Quality.EXCELLENT),
    (0.85, Quality.GOOD),
    (0.70, Quality.ACCEPTABLE),
    (-math.inf, Quality.POOR),
)


def quality(estimate: Estimate | None, decisions: int) -> Quality:
    """Names the level of an estimated share.

    There is not enough data under 30 decisions, and where the interval leaves more than two neighbouring levels open.
    """
    if estimate is None or decisions < MINIMUM or math.isnan(estimate.value):
        return Quality.NOT_ENOUGH_DATA
    ends = [estimate.low, estimate.high]
    if any(math.isnan(end) for end in ends) or abs(_place(ends[0]) - _place(ends[1])) > 1:
        return Quality.NOT_ENOUGH_DATA
    return _LEVELS[_place(estimate.value)][1]


def _place(share: float) -> int:
    return next(place for place, (at_least, _) in enumerate(_LEVELS) if share >= at_least)


def normal_quantile(confidence: float) -> float:
    """Gives the half-width, in standard errors, of a two-sided interval."""
    return float(ndtri((1 + confidence) / 2))


def wilson(hits: float, trials: float, confidence: float = CONFIDENCE) -> Estimate | None:
    """Gives a share and Wilson's score interval; None without trials."""
    if trials <= 0:
        return None
    z = normal_quantile(confidence)
    share = hits / trials
    scale = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(max(share * (1 - share), 0.0) / trials + z * z / (4 * trials * trials))
    # At the ends the bound is exact; rounding must not leave the value outside of its interval.
    return Estimate(share, max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)))


def mean(count: int, total: float, squares: float, confidence: float = CONFIDENCE) -> Estimate | None:
    """Gives a mean and its normal interval from sums; None without values, no interval where `squares` is NaN."""
    if count <= 0:
        return None
    middle = total / count
    if math.isnan(squares) or count < 2:
        return Estimate(middle, math.nan, math.nan)
    variance = max(squares / count - middle * middle, 0.0) * count / (count - 1)
    half = normal_quantile(confidence) * math.sqrt(variance / count)
    return Estimate(middle, middle - half, middle + half)


def area_under_curve(
    positives: Floats, negatives: Floats, confidence: float = CONFIDENCE
) -> tuple[Estimate, float] | None:
    """Gives the AUC from histograms of scores by class, both [bins] by rising score, and the bound of its error.

    Two decisions in the same bin count as a tie. The AUC of the exact scores differs by at most the bound, which is
    half the share of pairs in the same bin; the interval (DeLong's variance) is widened by it. None when one class is
    missing.
    """
    above, below = positives.sum(), negatives.sum()
    if above <= 0 or below <= 0:
        return None
    beaten = (np.cumsum(negatives) - negatives / 2) / below
    beating = 1 - (np.cumsum(positives) - positives / 2) / above
    value = float(positives @ beaten / above)
    bound = float(positives @ negatives / (2 * above * below))
    variance = float(positives @ (beaten - value) ** 2 / max(above - 1, 1) / above)
    variance += float(negatives @ (beating - value) ** 2 / max(below - 1, 1) / below)
    if variance <= 0.0 or min(above, below) < 2:
        variance = _hanley(value, float(above), float(below))
    half = normal_quantile(confidence) * math.sqrt(variance) + bound
    return Estimate(value, max(0.0, value - half), min(1.0, value + half)), bound


def _hanley(value: float, above: float, below: float) -> float:
    """Variance of an AUC without spread among its pairs, as for one that is pulled in by half a decision."""
    few = min(above, below)
    pulled = (value * few + 0.5) / (few + 1)
    first, second = pulled / (2 - pulled), 2 * pulled**2 / (1 + pulled)
    total = pulled * (1 - pulled) + (above - 1) * (first - pulled**2) + (below - 1) * (second - pulled**2)
    return total / (above * below)
