"""Comparison of two windows from their summaries: what a monitoring cycle does every few minutes.

Each comparison is a look. Look number k may use a k-th share of the false-alarm rate (`control.spent`) and the columns
share it by Holm's method, so that the rate holds for all columns and all looks of a run, whatever their dependence:
windows may overlap, and the reference may be the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import betainc

from bentos.thresholds import Thresholds
from monitoring.drift.control import holm, spent
from monitoring.drift.distances import category_distances, number_distances
from monitoring.drift.results import Aspect, Distances, DriftResult, Verdict, Window
from monitoring.drift.summaries import CategorySummary, NumberSummary, Summary, WindowSummary
from monitoring.drift.window_quality import Rate, constant_chance, quality_rates
from services.runtime.errors import InvalidArgument

SHARES: Final = {Aspect.FEATURE: 0.4, Aspect.PREDICTION: 0.2, Aspect.QUALITY: 0.2, Aspect.RATE: 0.2}
"""How the false-alarm rate is shared out among the comparisons of windows."""
_BLIND: Final = 3.0
"""A window that could not show this many times the limit is too small for a verdict."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One aspect of one comparison: what all of its tests share."""

    aspect: Aspect
    alpha: float
    """Of all looks of the run."""
    reference: Window
    current: Window
    minimum: int
    number: int

    def over_run(self, p_value: float) -> float:
        """Corrects a p-value for the number of looks; what has no p-value is no evidence."""
        return 1.0 if math.isnan(p_value) else min(1.0, p_value / spent(1.0, self.number))


def compare_windows(
    reference: WindowSummary, current: WindowSummary, thresholds: Thresholds, *, look: int
) -> tuple[DriftResult, ...]:
    """Compares features, answers and data quality of two windows. `look` counts the comparisons of a run from 1.

    Raises:
        InvalidArgument: the windows are of different features.
    """
    if reference.features.keys() != current.features.keys() or reference.answers.keys() != current.answers.keys():
        raise InvalidArgument("features", "windows of different features cannot be compared")

    def aspect(name: Aspect, share: float = 1.0) -> _Look:
        alpha = SHARES[name] * thresholds.false_alarm_rate * share
        return _Look(name, alpha, reference.window, current.window, thresholds.minimum_decisions, look)

    features = {name: (summary, current.features[name]) for name, summary in reference.features.items()}
    answers = {name: (summary, current.answers[name]) for name, summary in reference.answers.items()}
    rates = quality_rates(features, current.violations, current.window.decisions, thresholds)
    return (
        *_compared(aspect(Aspect.FEATURE), thresholds.feature_effect, features),
        *_compared(aspect(Aspect.PREDICTION), thresholds.prediction_effect, answers),
        *_limited(aspect(Aspect.QUALITY, 0.5), rates),
        _constant(aspect(Aspect.QUALITY, 0.5), features),
    )


def compare_rates(
    rates: Mapping[str, Rate], window: Window, thresholds: Thresholds, *, look: int
) -> tuple[DriftResult, ...]:
    """Holds rates against their limits, each by name: fallbacks, unsure answers, failed calls; see `hold_rates`."""
    return hold_rates(
        rates,
        reference=Window(0, 0, 0),
        current=window,
        aspect=Aspect.RATE,
        alpha=SHARES[Aspect.RATE] * thresholds.false_alarm_rate,
        minimum=thresholds.minimum_decisions,
        look=look,
    )


def hold_rates(
    rates: Mapping[str, Rate],
    *,
    reference: Window,
    current: Window,
    aspect: Aspect,
    alpha: float,
    minimum: int,
    look: int,
) -> tuple[DriftResult, ...]:
    """Holds rates against their limits by the exact binomial test (Clopper and Pearson 1934).

    A limit of 0 is broken by the first occurrence.

    Args:
        rates: each by name.
        reference: where the limits come from.
        current: what is judged.
        aspect: what the rates are about.
        alpha: false-alarm rate of all of them over all looks.
        minimum: decisions under which no verdict is given.
        look: number of this look, from 1.
    """
    return _limited(_Look(aspect, alpha, reference, current, minimum, look), rates)


def _compared(look: _Look, limit: float, pairs: Mapping[str, tuple[Summary, Summary]]) -> tuple[DriftResult, ...]:
    distances = {name: _distances(*pair) for name, pair in pairs.items()}
    adjusted = holm(np.array([found.p_value for found in distances.values()]))
    results = []
    for (name, found), p_value in zip(distances.items(), adjusted, strict=True):
        before, now = (summary.known for summary in pairs[name])
        numeric = isinstance(pairs[name][1], NumberSummary)
        p_run = look.over_run(float(p_value))
        level = spent(look.alpha, look.number) / len(pairs)
        visible = math.sqrt(math.log(2 / level) / 2 * (1 / before + 1 / now)) if before and now else math.inf
        if min(before, now) < look.minimum:
            verdict = Verdict.NOT_ENOUGH_DATA
            detail = f"{name} has {min(before, now)} known values on one side; {look.minimum} are needed"
        elif p_run <= look.alpha and found.lower > limit:
            verdict, detail = Verdict.DRIFT, f"{name} moved by {found.ks:.3f}, and up to {limit:g} would be fine"
        elif visible > _BLIND * limit:
            verdict = Verdict.NOT_ENOUGH_DATA
            detail = f"windows of this size show {name} only from a distance of {visible:.2f} on"
        else:
            verdict, detail = Verdict.OK, f"{name} agrees with the reference"
        results.append(
            DriftResult(
                aspect=look.aspect,
                subject=name,
                test="Kolmogorov-Smirnov from sketches" if numeric else "chi-squared",
                reference=Window(before, look.reference.start, look.reference.end),
                current=Window(now, look.current.start, look.current.end),
                measure="Kolmogorov-Smirnov distance" if numeric else "total variation distance",
                effect=found.ks,
                limit=limit,
                p_value=p_run,
                false_alarm_rate=look.alpha,
                verdict=verdict,
                detail=detail,
                distances=found,
            )
        )
    return tuple(results)


def _distances(reference: Summary, current: Summary) -> Distances:
    if isinstance(reference, NumberSummary) and isinstance(current, NumberSummary):
        return number_distances(reference, current)
    if isinstance(reference, CategorySummary) and isinstance(current, CategorySummary):
        return category_distances(reference, current)
    raise InvalidArgument("features", "a number cannot be compared with a category")


def _limited(look: _Look, rates: Mapping[str, Rate]) -> tuple[DriftResult, ...]:
    adjusted = holm(np.array([_binomial_tail(rate) for rate in rates.values()]))
    results = []
    for (name, rate), p_value in zip(rates.items(), adjusted, strict=True):
        p_run = look.over_run(float(p_value))
        share = rate.hits / rate.trials if rate.trials else 0.0
        if p_run <= look.alpha:
            verdict, detail = Verdict.DRIFT, f"{name}: {share:.2%} is over the limit {rate.limit:.2%}"
        elif rate.trials < look.minimum:
            verdict, detail = Verdict.NOT_ENOUGH_DATA, f"{name}: {rate.trials} decisions; {look.minimum} are needed"
        else:
            verdict, detail = Verdict.OK, f"{name}: {share:.2%} is not shown to be over the limit {rate.limit:.2%}"
        results.append(
            DriftResult(
                aspect=look.aspect,
                subject=name,
                test="exact binomial",
                reference=look.reference,
                current=Window(rate.trials, look.current.start, look.current.end),
                measure="rate",
                effect=share,
                limit=rate.limit,
                p_value=p_run,
                false_alarm_rate=look.alpha,
                verdict=verdict,
                detail=detail,
            )
        )
    return tuple(results)


def _binomial_tail(rate: Rate) -> float:
    """Gives the chance of at least so many hits when each trial has the limit's chance."""
    if rate.hits <= 0 or rate.limit >= 1:
        return 1.0
    return float(betainc(rate.hits, rate.trials - rate.hits + 1, rate.limit)) if rate.limit > 0 else 0.0


def _constant(look: _Look, pairs: Mapping[str, tuple[Summary, Summary]]) -> DriftResult:
    adjusted = holm(np.array([constant_chance(before, now) for before, now in pairs.values()]))
    over_run = [look.over_run(float(p_value)) for p_value in adjusted]
    names = [name for name, p_value in zip(pairs, over_run, strict=True) if p_value <= look.alpha]
    if names:
        verdict, detail = Verdict.DRIFT, f"constant, unlike in the reference: {', '.join(names)}"
    elif look.current.decisions < look.minimum:
        verdict, detail = Verdict.NOT_ENOUGH_DATA, f"{look.minimum} decisions are needed"
    else:
        verdict, detail = Verdict.OK, "every feature that varied in the reference still does"
    return DriftResult(
        aspect=look.aspect,
        subject="constant features",
        test="chance of a constant window from the value's share in the reference",
        reference=look.reference,
        current=look.current,
        measure="features",
        effect=float(len(names)),
        limit=0.0,
        p_value=min(over_run, default=1.0),
        false_alarm_rate=look.alpha,
        verdict=verdict,
        detail=detail,
    )
