"""The full validation report: a tree of plain values, per variant and window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from bentos.thresholds import Thresholds
from monitoring.drift.results import Aspect, DriftResult, Verdict, Window
from monitoring.drift.summaries import NumberSummary
from monitoring.validation.binary import BinaryReport, BinaryStatistics, binary_report
from monitoring.validation.estimates import CONFIDENCE, Estimate, Quality, normal_quantile
from monitoring.validation.label_free import LabelFree, Unlabelled, expected_performance
from monitoring.validation.numbers import NumberReport, NumberStatistics, number_report
from monitoring.validation.rankings import RankingReport, RankingStatistics, ranking_report

Labelled = BinaryStatistics | NumberStatistics | RankingStatistics
Metrics = BinaryReport | NumberReport | RankingReport
_SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Distribution:
    """How values are distributed: known and missing ones, extremes, and the quantiles at 1, 5, 25, 50, 75, 95, 99 %."""

    known: int
    missing: int
    lowest: float
    highest: float
    quantiles: tuple[tuple[float, float], ...]
    """Pairs of share and value; empty without known values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantWindow:
    """What is known of one variant in one window; statistics can be added up, so a window may have any length."""

    variant: str
    window: Window
    """All decisions, labelled or not."""
    labelled: Labelled
    score: NumberSummary | None = None
    confidence: NumberSummary | None = None
    unlabelled: Unlabelled | None = None
    """Decisions whose outcome is not known yet, for the estimate without labels."""
    past: BinaryStatistics | None = None
    """Earlier labelled decisions of the variant: the baseline, and what its probabilities mean."""
    drift: tuple[DriftResult, ...] = ()
    outside: float = 0.0
    """Share of rows with a feature outside of the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantReport:
    """One variant in one window."""

    variant: str
    window: Window
    metrics: Metrics
    quality: Quality
    score: Distribution | None
    confidence: Distribution | None
    label_free: LabelFree
    accuracy_change: Estimate | None
    """Accuracy less that of the past, with Newcombe's interval; None where one of them is not known."""
    drift: tuple[DriftResult, ...]
    notes: tuple[str, ...]
    """Sentences about targets that are missed and about what could not be said."""


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """All variants and windows."""

    confidence: float
    """Of every interval."""
    variants: tuple[VariantReport, ...]


def full_report(
    windows: tuple[VariantWindow, ...], thresholds: Thresholds, confidence: float = CONFIDENCE
) -> ValidationReport:
    """Reports on every variant and window in the order in which they are given."""
    return ValidationReport(confidence, tuple(_variant(window, thresholds, confidence) for window in windows))


def distribution(summary: NumberSummary) -> Distribution:
    """Describes the values of a summary."""
    if not summary.known:
        return Distribution(0, summary.missing, math.nan, math.nan, ())
    values = summary.quantiles(np.array(_SHARES))
    low, high = float(summary.sketch.get_min_value()), float(summary.sketch.get_max_value())
    return Distribution(summary.known, summary.missing, low, high, tuple(zip(_SHARES, map(float, values), strict=True)))


def accuracy_change(past: BinaryStatistics, now: BinaryStatistics, confidence: float = CONFIDENCE) -> Estimate | None:
    """Gives how much the accuracy changed, with Newcombe's (1998) score interval; None without labels."""
    before, after = binary_report(past, confidence).accuracy, binary_report(now, confidence).accuracy
    if before is None or after is None:
        return None
    change = after.value - before.value
    down = math.hypot(after.value - after.low, before.high - before.value)
    up = math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(change, change - down, change + up)


def _variant(window: VariantWindow, thresholds: Thresholds, confidence: float) -> VariantReport:
    metrics = _metrics(window.labelled, confidence)
    change = None
    if isinstance(window.labelled, BinaryStatistics) and window.past is not None:
        change = accuracy_change(window.past, window.labelled, confidence)
    return VariantReport(
        variant=window.variant,
        window=window.window,
        metrics=metrics,
        quality=metrics.quality,
        score=distribution(window.score) if window.score else None,
        confidence=distribution(window.confidence) if window.confidence else None,
        label_free=_label_free(window, confidence),
        accuracy_change=change,
        drift=window.drift,
        notes=_notes(metrics, change, thresholds),
    )


def _metrics(labelled: Labelled, confidence: float) -> Metrics:
    match labelled:
        case BinaryStatistics():
            return binary_report(labelled, confidence)
        case NumberStatistics():
            return number_report(labelled, confidence)
        case RankingStatistics():
            return ranking_report(labelled, confidence)
        case _ as never:
            assert_never(never)


def _label_free(window: VariantWindow, confidence: float) -> LabelFree:
    if not isinstance(window.labelled, BinaryStatistics):
        return LabelFree(None, ("only probabilities tell how often they are right",))
    if window.unlabelled is None or window.past is None:
        return LabelFree(None, ("there are no unlabelled decisions, or no labelled past",))
    verdicts = [result.verdict for result in window.drift if result.aspect is Aspect.CONCEPT]
    concept = Verdict.DRIFT if Verdict.DRIFT in verdicts else Verdict.NOT_ENOUGH_DATA
    recent = window.labelled if window.labelled.decisions else None
    return expected_performance(
        window.past, window.unlabelled, recent=recent, concept=concept, outside=window.outside, confidence=confidence
    )


def _notes(metrics: Metrics, change: Estimate | None, thresholds: Thresholds) -> tuple[str, ...]:
    notes: list[str] = []
    if metrics.quality is Quality.NOT_ENOUGH_DATA:
        notes.append("there are too few labelled decisions to name a level of quality")
    if isinstance(metrics, BinaryReport):
        target = thresholds.accuracy
        if target is not None and metrics.accuracy is not None and metrics.accuracy.high < target:
            notes.append(f"accuracy {metrics.accuracy.value:.3f} is under its target {target:g}")
        if metrics.auc is None:
            notes.append("there is no AUC: only one class occurred")
        if metrics.precision is None:
            notes.append("there is no precision: nothing was predicted to be positive")
    if change is not None and change.high < -thresholds.accuracy_drop:
        notes.append(f"accuracy fell by {-change.value:.3f}, and up to {thresholds.accuracy_drop:g} would be fine")
    return tuple(notes)


def degraded(past: BinaryStatistics, now: BinaryStatistics, thresholds: Thresholds, *, look: int) -> DriftResult | None:
    """Compares the accuracy of two windows: a result like those of `compare_windows`; None without labels.

    The test is Newcombe's interval at the look's share of the false-alarm rate; `look` counts from 1.
    """
    alpha = thresholds.false_alarm_rate
    level = alpha / (look * (look + 1))
    change = accuracy_change(past, now, 1 - 2 * level)
    if change is None:
        return None
    smallest = min(past.decisions, now.decisions)
    if smallest < thresholds.minimum_decisions:
        verdict = Verdict.NOT_ENOUGH_DATA
        detail = f"{smallest} labelled decisions on one side; {thresholds.minimum_decisions} are needed"
    elif change.high < -thresholds.accuracy_drop:
        verdict = Verdict.DRIFT
        detail = f"accuracy fell by {-change.value:.3f}, and up to {thresholds.accuracy_drop:g} would be fine"
    else:
        verdict, detail = Verdict.OK, "accuracy is not shown to have fallen by more than is fine"
    # The smallest level at which the interval would exclude what is fine, by the normal shape of its upper half.
    half = max(change.high - change.value, 1e-12) / normal_quantile(1 - 2 * level)
    distance = (-thresholds.accuracy_drop - change.value) / half
    p_value = 0.5 * math.erfc(distance / math.sqrt(2)) * look * (look + 1)
    return DriftResult(
        aspect=Aspect.PERFORMANCE,
        subject="accuracy",
        test="Newcombe's interval, alpha spent over looks",
        reference=Window(past.decisions, 0, 0),
        current=Window(now.decisions, 0, 0),
        measure="fall of the accuracy",
        effect=-change.value,
        limit=thresholds.accuracy_drop,
        p_value=min(1.0, p_value),
        false_alarm_rate=alpha,
        verdict=verdict,
        detail=detail,
    )
