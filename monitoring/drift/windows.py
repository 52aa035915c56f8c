"""Comparison of two windows from their summaries: what a monitoring cycle does every few minutes.

Each comparison is a look. Look number k may use a k-th share of the false-alarm rate (`control.spent`) and the columns
share it by Holm's method, so that the rate holds for all columns and all looks of a run, whatever their dependence:
windows may overlap, and the reference may be the same for all.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy.special import betainc

from bentos.thresholds import Thresholds
from monitoring.drift.control import Floats, holm, spent
from monitoring.drift.distances import category_distances, number_distances
from monitoring.drift.quality import upper_rate
from monitoring.drift.results import Aspect, Distances, DriftResult, Verdict, Window
from monitoring.drift.summaries import CategorySummary, NumberSummary, Summary, WindowSummary
from services.runtime.errors import InvalidArgument

SHARES: Final = {Aspect.FEATURE: 0.4, Aspect.PREDICTION: 0.2, Aspect.QUALITY: 0.2, Aspect.RATE: 0.2}
"""How the false-alarm rate is shared out among the comparisons of windows."""
_BLIND: Final = 3.0
"""A window that could not show this many times the limit is too small for a verdict."""
_FENCE: Final = 3.0


def compare_windows(
    reference: WindowSummary, current: WindowSummary, thresholds: Thresholds, *, look: int
) -> tuple[DriftResult, ...]:
    """Compares features, answers and data quality of two windows. `look` counts the comparisons of a run from 1.

    Raises:
        InvalidArgument: the windows are of different features.
    """
    if reference.features.keys() != current.features.keys() or reference.answers.keys() != current.answers.keys():
        raise InvalidArgument("features", "windows of different features cannot be compared")
    windows = reference.window, current.window
    feature_pairs = {name: (summary, current.features[name]) for name, summary in reference.features.items()}
    answer_pairs = {name: (summary, current.answers[name]) for name, summary in reference.answers.items()}
    return (
        *_compared(Aspect.FEATURE, thresholds.feature_effect, feature_pairs, windows, thresholds, look),
        *_compared(Aspect.PREDICTION, thresholds.prediction_effect, answer_pairs, windows, thresholds, look),
        *_quality(feature_pairs, windows, current.violations, thresholds, look),
    )


def compare_rates(
    hits: dict[str, tuple[int, int, float]], window: Window, thresholds: Thresholds, *, look: int
) -> tuple[DriftResult, ...]:
    """Holds rates against their limits: for each name (times it happened, times it could have, limit).

    The test is the exact binomial one (Clopper and Pearson 1934); a limit of 0 is broken by the first occurrence.
    """
    alpha = SHARES[Aspect.RATE] * thresholds.false_alarm_rate
    return _limited(Aspect.RATE, alpha, hits, (Window(0, 0, 0), window), thresholds.minimum_decisions, look)


def _compared(
    aspect: Aspect,
    limit: float,
    pairs: dict[str, tuple[Summary, Summary]] | dict[str, tuple[NumberSummary, NumberSummary]],
    windows: tuple[Window, Window],
    thresholds: Thresholds,
    look: int,
) -> tuple[DriftResult, ...]:
    distances = {name: _distances(*pair) for name, pair in pairs.items()}
    adjusted = holm(np.array([found.p_value for found in distances.values()]))
    alpha = SHARES[aspect] * thresholds.false_alarm_rate
    results = []
    for (name, found), p_value in zip(distances.items(), adjusted, strict=True):
        before, now = pairs[name]
        p_run = 1.0 if math.isnan(p_value) else min(1.0, float(p_value) / spent(1.0, look))
        sizes = before.known, now.known
        level = spent(alpha, look) / len(pairs)
        verdict, detail = _verdict(name, found, limit, p_run <= alpha, sizes, level, thresholds.minimum_decisions)
        numeric = isinstance(now, NumberSummary)
        results.append(
            DriftResult(
                aspect=aspect,
                subject=name,
                test="Kolmogorov-Smirnov from sketches" if numeric else "chi-squared",
                reference=Window(sizes[0], windows[0].start, windows[0].end),
                current=Window(sizes[1], windows[1].start, windows[1].end),
                measure="Kolmogorov-Smirnov distance" if numeric else "total variation distance",
                effect=found.ks,
                limit=limit,
                p_value=p_run,
                false_alarm_rate=alpha,
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


def _verdict(
    name: str, found: Distances, limit: float, significant: bool, sizes: tuple[int, int], level: float, minimum: int
) -> tuple[Verdict, str]:
    smallest = min(sizes)
    if smallest < minimum:
        return Verdict.NOT_ENOUGH_DATA, f"{name} has {smallest} known values on one side; {minimum} are needed"
    if significant and found.lower > limit:
        return Verdict.DRIFT, f"{name} moved by {found.ks:.3f}, and up to {limit:g} would be fine"
    visible = math.sqrt(math.log(2 / level) / 2 * (1 / sizes[0] + 1 / sizes[1]))
    if visible > _BLIND * limit:
        return Verdict.NOT_ENOUGH_DATA, f"windows of this size show {name} only from a distance of {visible:.2f} on"
    return Verdict.OK, f"{name} agrees with the reference"


def _quality(
    pairs: dict[str, tuple[Summary, Summary]],
    windows: tuple[Window, Window],
    violations: int,
    thresholds: Thresholds,
    look: int,
) -> tuple[DriftResult, ...]:
    rates: dict[str, tuple[int, int, float]] = {}
    for name, (before, now) in pairs.items():
        usual = _upper(before.missing, before.missing + before.known)
        rates[f"{name}: missing"] = (now.missing, now.missing + now.known, max(thresholds.null_rate, usual))
        if isinstance(before, NumberSummary) and isinstance(now, NumberSummary):
            if before.known and now.known:
                rates[f"{name}: outliers"] = _outliers(before, now, thresholds.outlier_rate)
        elif isinstance(before, CategorySummary) and isinstance(now, CategorySummary):
            seen = np.zeros(len(before.merge(now).counts), np.int64)
            seen[: len(before.counts)] = before.counts
            new = int(now.counts[seen[: len(now.counts)] == 0].sum())
            rates[f"{name}: new categories"] = (new, now.known, _upper(0, before.known))
    rates["schema violations"] = (violations, windows[1].decisions, thresholds.schema_violation_rate)
    alpha = SHARES[Aspect.QUALITY] * thresholds.false_alarm_rate / 2
    limited = _limited(Aspect.QUALITY, alpha, rates, windows, thresholds.minimum_decisions, look)
    return (*limited, _constant(alpha, pairs, windows, thresholds.minimum_decisions, look))


def _upper(hits: int, trials: int) -> float:
    return float(upper_rate(np.array([hits], np.float64), trials)[0])


def _outliers(before: NumberSummary, now: NumberSummary, declared: float) -> tuple[int, int, float]:
    low, high = before.quantiles(np.array([0.25, 0.75]))
    fences = np.array([low - _FENCE * (high - low), high + _FENCE * (high - low)])

    def share(summary: NumberSummary) -> float:
        under = summary.share_upto(fences[:1], inclusive=False)[0]
        return float(under + 1 - summary.share_upto(fences[1:])[0])

    # What the sketches may be wrong by is never counted as outliers.
    limit = min(1.0, share(before) + before.rank_error)
    sure = max(0.0, share(now) - now.rank_error)
    return int(sure * now.known), now.known, max(declared, _upper(math.ceil(limit * before.known), before.known))


def _limited(
    aspect: Aspect,
    alpha: float,
    rates: dict[str, tuple[int, int, float]],
    windows: tuple[Window, Window],
    minimum: int,
    look: int,
) -> tuple[DriftResult, ...]:
    adjusted = holm(np.array([_binomial_tail(*rate) for rate in rates.values()]))
    results = []
    for (name, (hits, trials, limit)), p_value in zip(rates.items(), adjusted, strict=True):
        p_run = 1.0 if math.isnan(p_value) else min(1.0, float(p_value) / spent(1.0, look))
        rate = hits / trials if trials else 0.0
        if p_run <= alpha:
            verdict, detail = Verdict.DRIFT, f"{name}: {rate:.2%} is over the limit {limit:.2%}"
        elif trials < minimum:
            verdict, detail = Verdict.NOT_ENOUGH_DATA, f"{name}: {trials} decisions; {minimum} are needed"
        else:
            verdict, detail = Verdict.OK, f"{name}: {rate:.2%} is not shown to be over the limit {limit:.2%}"
        results.append(
            DriftResult(
                aspect=aspect,
                subject=name,
                test="exact binomial",
                reference=windows[0],
                current=Window(trials, windows[1].start, windows[1].end),
                measure="rate",
                effect=rate,
                limit=limit,
                p_value=p_run,
                false_alarm_rate=alpha,
                verdict=verdict,
                detail=detail,
            )
        )
    return tuple(results)


def _binomial_tail(hits: int, trials: int, limit: float) -> float:
    """Gives the chance of at least `hits` of `trials` when each has the chance `limit`."""
    if hits <= 0 or limit >= 1:
        return 1.0
    return float(betainc(hits, trials - hits + 1, limit)) if limit > 0 else 0.0


def _constant(
    alpha: float, pairs: dict[str, tuple[Summary, Summary]], windows: tuple[Window, Window], minimum: int, look: int
) -> DriftResult:
    chances: Floats = np.array([_constant_chance(before, now) for before, now in pairs.values()])
    adjusted = np.minimum(np.nan_to_num(holm(chances), nan=1.0) / spent(1.0, look), 1.0)
    names = [name for name, p_value in zip(pairs, adjusted, strict=True) if p_value <= alpha]
    verdict, detail = Verdict.OK, "every feature that varied in the reference still does"
    if names:
        verdict, detail = Verdict.DRIFT, f"constant, unlike in the reference: {', '.join(names)}"
    elif windows[1].decisions < minimum:
        verdict, detail = Verdict.NOT_ENOUGH_DATA, f"{minimum} decisions are needed"
    return DriftResult(
        aspect=Aspect.QUALITY,
        subject="constant features",
        test="chance of a constant window from the value's share in the reference",
        reference=windows[0],
        current=windows[1],
        measure="features",
        effect=float(len(names)),
        limit=0.0,
        p_value=float(adjusted.min(initial=1.0)),
        false_alarm_rate=alpha,
        verdict=verdict,
        detail=detail,
    )


def _constant_chance(before: Summary, now: Summary) -> float:
    """Gives the chance that all values of a window are its one value; NaN where it has several, or none."""
    if not (before.known and now.known):
        return math.nan
    if isinstance(now, NumberSummary) and isinstance(before, NumberSummary):
        value = now.sketch.get_min_value()
        if value != now.sketch.get_max_value():
            return math.nan
        point = np.array([value])
        share = float((before.share_upto(point) - before.share_upto(point, inclusive=False))[0])
        usual = _upper(math.ceil(min(1.0, share + 2 * before.rank_error) * before.known), before.known)
        if before.sketch.get_min_value() == before.sketch.get_max_value() == value:
            usual = 1.0
    elif isinstance(now, CategorySummary) and isinstance(before, CategorySummary):
        if np.count_nonzero(now.counts) != 1:
            return math.nan
        code = int(np.argmax(now.counts))
        usual = _upper(int(before.counts[code]) if code < len(before.counts) else 0, before.known)
    else:
        return math.nan
    return float(usual**now.known)
