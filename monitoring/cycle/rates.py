"""Rates of the arms over the cycle's window, each held against its limit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from datasketches import kll_floats_sketch

from bentos.family import RULES, Family
from bentos.thresholds import Thresholds
from monitoring.cycle.findings import ArmTraffic, Finding
from monitoring.drift.results import Window
from monitoring.drift.window_quality import Rate
from monitoring.drift.windows import compare_rates
from monitoring.ledger.aggregates import Totals
from monitoring.ledger.statistics import SKETCH_K
from services.runtime.monitoring_config import ThresholdValues

SLOW_SHARE: Final = 0.05
"""A 95th percentile is over its limit when a larger share of the answers is slower than the limit."""
_SECOND_US: Final = 1_000_000


def arms_of(totals: Mapping[tuple[str, ...], Totals]) -> tuple[ArmTraffic, ...]:
    """Gives each arm's traffic from totals by experiment, arm and variant that served.

    Only what the arm's own model answered tells how sure that model is: not what the rules answered, whose confidence
    nobody can raise by training, and not what another arm's model answered in its place.
    """
    whole: dict[tuple[str, str], Totals] = {}
    sure: dict[tuple[str, str], Any] = {}
    for (experiment, arm, variant), found in sorted(totals.items()):
        key = (experiment, arm)
        confidence = sure.setdefault(key, kll_floats_sketch(SKETCH_K))
        if variant != RULES and found.served:
            confidence.merge(found.statistics.confidence)
        if key in whole:
            whole[key].statistics.merge(found.statistics)
        else:
            whole[key] = found
    return tuple(
        ArmTraffic(experiment=key[0], arm=key[1], totals=found, confidence=sure[key]) for key, found in whole.items()
    )


def judge_rates(  # noqa: PLR0917 - one look's facts, handed on by one caller
    family: Family,
    arms: tuple[ArmTraffic, ...],
    limits: ThresholdValues,
    thresholds: Thresholds,
    window: tuple[int, int],
    number: int,
) -> list[Finding]:
    """Holds the rates of each arm against the limits; `number` counts the looks of the family from 1."""
    findings: list[Finding] = []
    shared = replace(thresholds, false_alarm_rate=max(thresholds.false_alarm_rate / max(len(arms), 1), 1e-6))
    for arm in arms:
        seconds = Window(arm.totals.decisions, window[0] / _SECOND_US, window[1] / _SECOND_US)
        results = compare_rates(_rates(arm, limits), seconds, shared, look=number)
        findings += [
            Finding(family=family.name, experiment=arm.experiment, arm=arm.arm, result=result, online=False)
            for result in results
        ]
    return findings


def _rates(arm: ArmTraffic, limits: ThresholdValues) -> dict[str, Rate]:
    totals, confidence, latency = arm.totals, arm.confidence, arm.totals.statistics.latency
    rates = {
        "fallback rate": Rate(totals.decisions - totals.served, totals.decisions, limits.fallback_rate),
        "error rate": Rate(totals.errors, totals.decisions, limits.error_rate),
    }
    if not confidence.is_empty():
        low = float(confidence.get_rank(limits.low_confidence, False))  # noqa: FBT003 - exclusive
        rates["low-confidence rate"] = Rate(_sure(confidence, low), int(confidence.n), limits.low_confidence_rate)
    if not latency.is_empty():
        slow = 1 - float(latency.get_rank(limits.latency_p95_ms * 1000, True))  # noqa: FBT003 - inclusive
        rates["slow answers"] = Rate(_sure(latency, slow), int(latency.n), SLOW_SHARE)
    return rates


def _sure(sketch: Any, share: float) -> int:
    """Gives how many that share is at least, less what the sketch may be wrong by."""
    error = sketch.normalized_rank_error(False) if sketch.is_estimation_mode() else 0.0  # noqa: FBT003 - of ranks
    return int(max(0.0, share - error) * sketch.n)
