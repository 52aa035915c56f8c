"""Data quality of a window from its summary: rates with their limits, and features that became constant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from bentos.thresholds import Thresholds
from monitoring.drift.quality import upper_rate
from monitoring.drift.summaries import CategorySummary, NumberSummary, Summary

_FENCE: Final = 3.0


class Rate(NamedTuple):
    """How often a thing happened."""

    hits: int
    trials: int
    limit: float
    """Rate that is still fine."""


def quality_rates(
    pairs: Mapping[str, tuple[Summary, Summary]], violations: int, decisions: int, thresholds: Thresholds
) -> dict[str, Rate]:
    """Gives the rates of (reference, current) by feature: missing values, outliers, new categories; broken rows.

    A limit is the family's, or what the reference shows to be usual where that is more.
    """
    rates: dict[str, Rate] = {}
    for name, (before, now) in pairs.items():
        usual = _upper(before.missing, before.missing + before.known)
        rates[f"{name}: missing"] = Rate(now.missing, now.missing + now.known, max(thresholds.null_rate, usual))
        if not (before.known and now.known):
            continue
        if isinstance(before, NumberSummary) and isinstance(now, NumberSummary):
            rates[f"{name}: outliers"] = _outliers(before, now, thresholds.outlier_rate)
        elif isinstance(before, CategorySummary) and isinstance(now, CategorySummary):
            seen = np.zeros(max(len(before.counts), len(now.counts)), np.int64)
            seen[: len(before.counts)] = before.counts
            new = int(now.counts[seen[: len(now.counts)] == 0].sum())
            rates[f"{name}: new categories"] = Rate(new, now.known, _upper(0, before.known))
    rates["schema violations"] = Rate(violations, decisions, thresholds.schema_violation_rate)
    return rates


def constant_chance(before: Summary, now: Summary) -> float:
    """Gives the chance that all values of a window are its one value; NaN where it has several, or none."""
    if not (before.known and now.known):
        return math.nan
    if isinstance(now, NumberSummary) and isinstance(before, NumberSummary):
        return _constant_number(before, now)
    if isinstance(now, CategorySummary) and isinstance(before, CategorySummary):
        if np.count_nonzero(now.counts) != 1:
            return math.nan
        code = int(np.argmax(now.counts))
        usual = _upper(int(before.counts[code]) if code < len(before.counts) else 0, before.known)
        return float(usual**now.known)
    return math.nan


def _constant_number(before: NumberSummary, now: NumberSummary) -> float:
    value = now.sketch.get_min_value()
    if value != now.sketch.get_max_value():
        return math.nan
    if before.sketch.get_min_value() == before.sketch.get_max_value() == value:
        return 1.0
    point = np.array([value])
    share = float((before.share_upto(point) - before.share_upto(point, inclusive=False))[0])
    # Both ranks may be wrong.
    share = min(1.0, share + 2 * before.rank_error)
    return float(_upper(math.ceil(share * before.known), before.known) ** now.known)


def _upper(hits: int, trials: int) -> float:
    return float(upper_rate(np.array([hits], np.float64), trials)[0])


def _outliers(before: NumberSummary, now: NumberSummary, declared: float) -> Rate:
    low, high = before.quantiles(np.array([0.25, 0.75]))
    fences = np.array([low - _FENCE * (high - low), high + _FENCE * (high - low)])

    def share(summary: NumberSummary) -> float:
        under = summary.share_upto(fences[:1], inclusive=False)[0]
        return float(under + 1 - summary.share_upto(fences[1:])[0])

    # What the sketches may be wrong by is never counted as outliers.
    usual = min(1.0, share(before) + before.rank_error)
    sure = max(0.0, share(now) - now.rank_error)
    limit = max(declared, _upper(math.ceil(usual * before.known), before.known))
    return Rate(int(sure * now.known), now.known, limit)
