"""From what a cycle saw to conditions for alerts. Pure.

One condition stands for one thing that somebody would look at: a feature, whatever the arms that saw it; an arm's
variant; an arm. Where several tests speak of it, the worst verdict counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bentos.family import RULES, Family
from monitoring.alerts.conditions import Verdict as Holds
from monitoring.alerts.kinds import AlertType, Severity
from monitoring.cycle.findings import FamilySeen, Finding
from monitoring.cycle.looks import Looks, place
from monitoring.cycle.monitors import Standing
from monitoring.cycle.platform import Platform
from monitoring.cycle.quality import report, statistics
from monitoring.cycle.ratio import Mismatch
from monitoring.drift.control import spent
from monitoring.drift.results import Aspect, Verdict
from monitoring.ledger.aggregates import Totals
from monitoring.validation.binary import BinaryReport
from services.runtime.monitoring_config import ThresholdValues

DAY_US: Final = 86_400_000_000
QUIET_US: Final = DAY_US
"""A monitor without a decision for so long says nothing any more."""
_RATES: Final = {
    "fallback rate": AlertType.HIGH_FALLBACK_RATE,
    "error rate": AlertType.HIGH_ERROR_RATE,
    "low-confidence rate": AlertType.LOW_CONFIDENCE,
    "slow answers": AlertType.HIGH_LATENCY,
}


def online_findings(standings: Sequence[Standing], now_us: int) -> list[Finding]:
    """Gives the results of the newest version in each arm, of monitors that still get decisions."""
    latest: dict[tuple[str, ...], Standing] = {}
    for one in standings:
        present = latest.get(one.key[:4])
        if present is None or one.since_us > present.since_us:
            latest[one.key[:4]] = one
    return [
        Finding(
            family=one.key.family,
            experiment=one.key.experiment,
            arm=one.key.arm,
            variant=one.key.variant,
            result=result,
            since_us=one.since_us,
            until_us=one.last_us,
        )
        for one in latest.values()
        if one.last_us >= now_us - QUIET_US
        for result in one.results
    ]


def judge_drift(looks: Looks, findings: Iterable[Finding]) -> None:
    """Turns results of drift tests and rates into conditions."""
    for finding in findings:
        result = finding.result
        labels = {
            "family": finding.family,
            "experiment": finding.experiment,
            "arm": finding.arm,
            "variant": finding.variant,
        }
        feature = {"family": finding.family, "feature": result.subject.partition(": ")[0].replace(" ", "_")}
        match result.aspect:
            case Aspect.FEATURE | Aspect.JOINT:
                kind, labels = AlertType.FEATURE_DRIFT, feature
            case Aspect.QUALITY:
                kind, labels = AlertType.DATA_QUALITY, feature
            case Aspect.PREDICTION:
                kind = AlertType.PREDICTION_DRIFT
            case Aspect.CONCEPT:
                kind = AlertType.CONCEPT_DRIFT
            case Aspect.PERFORMANCE:
                kind = AlertType.PERFORMANCE_DEGRADATION
            case Aspect.RATE:
                if finding.online or result.subject not in _RATES:
                    continue
                kind = _RATES[result.subject]
        where = place(finding.arm, finding.variant)
        summary = result.detail if where else f"{finding.family}: {result.detail}"
        value, verdict = _finite(result.effect), _holds(result.verdict)
        looks.add(kind, labels, verdict, summary, where=where, value=value, limit=result.limit)


def judge_quality(
    looks: Looks, family: Family, seen: FamilySeen, limits: ThresholdValues, *, look: int, alpha: float
) -> None:
    """Holds accuracy and F1 of the quality window against the limits, by intervals that hold at every look.

    The rules are left out: they are the net, and models are there because they do better. An alert that stands as
    long as the rules have an arm would tell nobody anything; `turnout report` shows how good they are.
    """
    models = {key: totals for key, totals in seen.labelled.items() if key[2] != RULES}
    level = spent(alpha, look) / max(2 * len(models), 1)
    for (experiment, arm, variant), totals in sorted(models.items()):
        labels = {"family": family.name, "experiment": experiment, "arm": arm, "variant": variant}
        found = _quality(family, totals, limits, 1 - 2 * level)
        if found is None:
            continue
        verdict, sentence, value, limit, severity = found
        kind, where = AlertType.PERFORMANCE_DEGRADATION, place(arm, variant)
        looks.add(kind, labels, verdict, sentence, where=where, value=value, limit=limit, severity=severity)


def _quality(
    family: Family, totals: Totals, limits: ThresholdValues, confidence: float
) -> tuple[Holds, str, float, float, Severity | None] | None:
    found = report(statistics(family, totals), confidence)
    if not isinstance(found, BinaryReport) or found.accuracy is None:
        return None
    accuracy = found.accuracy
    if found.decisions < limits.min_decisions:
        return Holds.UNKNOWN, f"{found.decisions} outcomes", accuracy.value, limits.accuracy, None
    if accuracy.high < limits.accuracy:
        severity = Severity.CRITICAL if accuracy.high < limits.accuracy_critical else Severity.HIGH
        sentence = f"accuracy {accuracy.value:.3f} of {found.decisions} outcomes is under {limits.accuracy:g}"
        return Holds.HOLDS, sentence, accuracy.value, limits.accuracy, severity
    if found.f1 is not None and found.f1.high < limits.f1:
        sentence = f"F1 {found.f1.value:.3f} of {found.decisions} outcomes is under {limits.f1:g}"
        return Holds.HOLDS, sentence, found.f1.value, limits.f1, Severity.HIGH
    return Holds.CLEAR, f"accuracy {accuracy.value:.3f}", accuracy.value, limits.accuracy, None


def judge_ratios(
    looks: Looks, ratios: Mapping[tuple[str, str], Mismatch], alphas: Mapping[str, float], minimum: Mapping[str, int]
) -> None:
    """Turns tests of the samples' ratio into conditions.

    Args:
        looks: where they go.
        ratios: by family and experiment.
        alphas: false-alarm rate by family, for all of its experiments.
        minimum: units under which nothing is said, by family.
    """
    numbers: dict[str, int] = {}
    for (family, experiment), found in sorted(ratios.items()):
        number = numbers[family] = numbers.get(family, 0) + 1
        if found.p_value <= spent(alphas[family], number):
            verdict = Holds.HOLDS
        else:
            verdict = Holds.UNKNOWN if found.units < minimum[family] else Holds.CLEAR
        summary = (
            f"{experiment}: arm {found.worst_arm} got {found.share:.1%} of {found.units} units, "
            f"and its weight says {found.expected:.1%} (p = {found.p_value:.2g})"
        )
        labels = {"family": family, "experiment": experiment}
        kind = AlertType.SAMPLE_RATIO_MISMATCH
        looks.add(kind, labels, verdict, summary, value=found.share, limit=found.expected)


def judge_models(looks: Looks, platform: Platform, stale_days: Mapping[str, float], now_us: int) -> None:
    """Says which variants cannot be reached, and which were trained too long ago."""
    for served in platform.served:
        labels = {"family": served.family, "variant": served.variant}
        where = f"{served.family}/{served.variant}"
        if not served.sleeps:
            verdict = Holds.UNKNOWN if served.ready is None else Holds.CLEAR if served.ready else Holds.HOLDS
            told = {Holds.HOLDS: "no router can reach it", Holds.CLEAR: "a router can reach it"}
            sentence = told.get(verdict, "no router has told")
            looks.add(AlertType.MODEL_UNAVAILABLE, labels, verdict, f"{where}: {sentence}")
        if served.trained_at_us is not None:
            days, limit = (now_us - served.trained_at_us) / DAY_US, stale_days[served.family]
            verdict = Holds.HOLDS if days > limit else Holds.CLEAR
            summary = f"{where} was trained {days:.1f} days ago, and {limit:g} would be fine"
            looks.add(AlertType.STALE_MODEL, labels, verdict, summary, value=days, limit=limit)


def _holds(verdict: Verdict) -> Holds:
    match verdict:
        case Verdict.DRIFT:
            return Holds.HOLDS
        case Verdict.OK:
            return Holds.CLEAR
        case Verdict.NOT_ENOUGH_DATA:
            return Holds.UNKNOWN


def _finite(number: float) -> float | None:
    return number if abs(number) < float("inf") else None
