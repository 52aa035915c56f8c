"""From the ledger's totals to the statistics and measures of validation. Pure."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from bentos.family import Family, TargetKind
from monitoring.ledger.aggregates import Totals
from monitoring.ledger.tally import Count, OutcomeSum
from monitoring.validation.binary import BinaryReport, BinaryStatistics, binary_report
from monitoring.validation.estimates import CONFIDENCE, Estimate, Quality
from monitoring.validation.label_free import LabelFree
from monitoring.validation.numbers import NumberReport, NumberStatistics, number_report
from monitoring.validation.rankings import RankingReport, RankingStatistics, ranking_report
from turnout.v1 import monitoring_pb2 as pb

Labelled = BinaryStatistics | NumberStatistics
Reported = BinaryReport | NumberReport
LEVELS: Final = {
    Quality.NOT_ENOUGH_DATA: pb.QUALITY_LEVEL_UNSPECIFIED,
    Quality.POOR: pb.QUALITY_LEVEL_POOR,
    Quality.ACCEPTABLE: pb.QUALITY_LEVEL_ACCEPTABLE,
    Quality.GOOD: pb.QUALITY_LEVEL_GOOD,
    Quality.EXCELLENT: pb.QUALITY_LEVEL_EXCELLENT,
}
_SHARES: Final = ("accuracy", "precision", "recall", "f1", "auc")


def statistics(family: Family, totals: Totals) -> Labelled:
    """Gives the statistics of predictions against outcomes."""
    if family.target.kind is TargetKind.BINARY:
        counts, predictions, outcomes = totals.calibration
        return BinaryStatistics(
            true_positives=totals.count(Count.TRUE_POSITIVES),
            false_positives=totals.count(Count.FALSE_POSITIVES),
            true_negatives=totals.count(Count.TRUE_NEGATIVES),
            false_negatives=totals.count(Count.FALSE_NEGATIVES),
            log_loss=totals.sum(OutcomeSum.LOG_LOSS),
            brier=totals.sum(OutcomeSum.SQUARED_ERROR),
            counts=counts.astype(np.float64),
            predictions=predictions,
            outcomes=outcomes,
        )
    outcome, value = totals.sum(OutcomeSum.OUTCOME), totals.sum(OutcomeSum.VALUE)
    return NumberStatistics(
        decisions=totals.outcomes,
        errors=value - outcome,
        absolute_errors=totals.sum(OutcomeSum.ABSOLUTE_ERROR),
        squared_errors=totals.sum(OutcomeSum.SQUARED_ERROR),
        fourth_powers=math.nan,
        outcomes=outcome,
        squared_outcomes=totals.sum(OutcomeSum.OUTCOME_SQUARED),
        # The ledger keeps no sum of |outcome|; it is the sum itself where the target cannot be negative.
        absolute_outcomes=outcome if family.target.low >= 0 else 0.0,
    )


def report(labelled: Labelled, confidence: float = CONFIDENCE) -> Reported:
    """Gives all metrics with intervals."""
    if isinstance(labelled, BinaryStatistics):
        return binary_report(labelled, confidence)
    return number_report(labelled, confidence)


def measures(found: Reported, unit: str) -> list[pb.Measure]:
    """Gives the metrics that are known; `unit` is the target's."""
    if isinstance(found, BinaryReport):
        pairs = [(name, getattr(found, name)) for name in (*_SHARES, "log_loss", "brier")]
        measured = [_measure(name, one, "1") for name, one in pairs if _known(one)]
        if found.decisions:
            measured.append(pb.Measure(name="calibration_error", value=found.expected_calibration_error, unit="1"))
        return measured
    named = {
        "mae": (found.mean_absolute_error, unit),
        "rmse": (found.root_mean_squared_error, unit),
        "bias": (found.bias, unit),
        "coverage": (found.coverage, "1"),
        "closeness": (found.closeness, "1"),
    }
    return [_measure(n, one, u) for n, (one, u) in named.items() if one and _known(one)]


def ranked(totals: Totals) -> RankingReport:
    """Gives how good rankings are, of a family that ranks."""
    sums = (totals.sum(OutcomeSum.NDCG), totals.sum(OutcomeSum.NDCG_SQUARED))
    return ranking_report(RankingStatistics(totals.count(Count.RANKINGS), *sums))


def ranking_measures(found: RankingReport, places: int) -> list[pb.Measure]:
    """Gives the mean NDCG over the first places, and of how many rankings."""
    if found.ndcg is None:
        return []
    return [
        _measure(f"ndcg_at_{places}", found.ndcg, "1"),
        pb.Measure(name="rankings", value=float(found.rankings), unit="1"),
    ]


def estimate(found: LabelFree, decisions: int) -> pb.PerformanceEstimate:
    """Gives the estimate without labels, or why there is none."""
    if found.expected is None:
        return pb.PerformanceEstimate(valid=False, reason="; ".join(found.reasons), decisions=decisions)
    expected = found.expected
    named = [(name, getattr(expected, name)) for name in (*_SHARES, "brier")]
    return pb.PerformanceEstimate(
        valid=True,
        measures=[_measure(name, one, "1") for name, one in named if _known(one)],
        decisions=expected.decisions,
    )


def _measure(name: str, one: Estimate, unit: str) -> pb.Measure:
    message = pb.Measure(name=name, value=one.value, unit=unit)
    if math.isfinite(one.low) and math.isfinite(one.high):
        message.low, message.high = one.low, one.high
    return message


def _known(one: Estimate | None) -> bool:
    return one is not None and math.isfinite(one.value)
