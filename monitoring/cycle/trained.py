"""Do models still see what they were trained on? Their recorded bounds against the newest values. Pure.

A bento says between which values 99.8 % of each feature of its training rows lay. That needs no decisions as a
reference: what was never like the training is told from the first hundreds of rows on, while a comparison with the
first decisions of a run would take it for usual.
"""

from __future__ import annotations

import math

import numpy as np

from bentos.thresholds import Thresholds
from monitoring.cycle.limits import TRAINED_SHARE
from monitoring.cycle.platform import Training
from monitoring.drift.results import Aspect, DriftResult, Window
from monitoring.drift.summaries import NumberSummary, WindowSummary
from monitoring.drift.window_quality import Rate
from monitoring.drift.windows import hold_rates


def outside_training(
    current: WindowSummary, training: Training, thresholds: Thresholds, *, look: int
) -> tuple[DriftResult, ...]:
    """Tells for each number whether more of the newest values than `outlier_rate` lie beyond the training's bounds.

    Args:
        current: the newest rows.
        training: what the variant was trained on.
        thresholds: of the windows; `TRAINED_SHARE` of their false-alarm rate is used.
        look: number of this look, from 1.
    """
    rates = {}
    for name, summary in current.features.items():
        low, high = training.bounds.get(name, (-math.inf, math.inf))
        if isinstance(summary, NumberSummary) and summary.known and (math.isfinite(low) or math.isfinite(high)):
            rates[f"{name}: outside training"] = _outside(summary, low, high, thresholds.outlier_rate)
    return hold_rates(
        rates,
        reference=Window(training.rows, training.since_s, training.until_s),
        current=current.window,
        aspect=Aspect.QUALITY,
        alpha=thresholds.false_alarm_rate * TRAINED_SHARE,
        minimum=thresholds.minimum_decisions,
        look=look,
    )


def _outside(summary: NumberSummary, low: float, high: float, limit: float) -> Rate:
    share = 0.0
    if math.isfinite(low):
        share += max(0.0, float(summary.share_upto(np.array([low]), inclusive=False)[0]) - summary.rank_error)
    if math.isfinite(high):
        share += max(0.0, 1 - float(summary.share_upto(np.array([high]))[0]) - summary.rank_error)
    return Rate(int(share * summary.known), summary.known, limit)
