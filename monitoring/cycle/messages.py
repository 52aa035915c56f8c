"""Health and findings as messages of MonitoringService. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from monitoring.cycle.findings import Finding
from monitoring.cycle.health import Dimension, Health, Number, Part, State
from monitoring.drift.results import Aspect, Verdict, Window
from turnout.v1 import monitoring_pb2 as pb

if TYPE_CHECKING:
    from monitoring.cycle.running import Report

_STATES: Final = {
    State.HEALTHY: pb.HEALTH_STATE_HEALTHY,
    State.DEGRADED: pb.HEALTH_STATE_DEGRADED,
    State.UNHEALTHY: pb.HEALTH_STATE_UNHEALTHY,
}
_DIMENSIONS: Final = {
    Dimension.DATABASE: pb.HEALTH_DIMENSION_DATABASE,
    Dimension.MODEL: pb.HEALTH_DIMENSION_MODEL,
    Dimension.PREDICTIONS: pb.HEALTH_DIMENSION_PREDICTIONS,
    Dimension.FALLBACK: pb.HEALTH_DIMENSION_FALLBACK,
}
_VERDICTS: Final = {
    Verdict.OK: pb.DRIFT_VERDICT_STABLE,
    Verdict.DRIFT: pb.DRIFT_VERDICT_DRIFT,
    Verdict.NOT_ENOUGH_DATA: pb.DRIFT_VERDICT_NOT_ENOUGH_DATA,
}
_KINDS: Final = {
    Aspect.FEATURE: pb.DRIFT_KIND_FEATURE,
    Aspect.JOINT: pb.DRIFT_KIND_JOINT,
    Aspect.PREDICTION: pb.DRIFT_KIND_PREDICTION,
    Aspect.CONCEPT: pb.DRIFT_KIND_CONCEPT,
    Aspect.PERFORMANCE: pb.DRIFT_KIND_PERFORMANCE,
    Aspect.QUALITY: pb.DRIFT_KIND_DATA_QUALITY,
}
_ORDER: Final = (Verdict.DRIFT, Verdict.OK, Verdict.NOT_ENOUGH_DATA)
_SECOND_US: Final = 1_000_000


def health_message(health: Health, family: str) -> pb.HealthResponse:
    """Gives the health, of one family only when it is named; the platform's own dimensions are always there."""
    parts = [part for part in health.parts if part.family in {"", family} or not family]
    worst = max((part.state for part in parts), default=None)
    return pb.HealthResponse(
        state=pb.HEALTH_STATE_UNSPECIFIED if worst is None else _STATES[worst],
        dimensions=[_part(part) for part in parts],
        checked_at_unix_us=health.checked_at_us,
        next_check_unix_us=health.next_check_us,
        cycle_seconds=health.cycle_seconds,
    )


def drift_message(report: Report, request: pb.DriftRequest) -> pb.DriftResponse:
    """Gives the findings that were asked for, drift first, the largest effects before the others."""
    found = []
    for finding in report.findings:
        kind = kind_of(finding)
        if kind is None or (request.family and finding.family != request.family):
            continue
        wanted = request.kind in {pb.DRIFT_KIND_UNSPECIFIED, kind}
        if wanted and request.verdict in {pb.DRIFT_VERDICT_UNSPECIFIED, _VERDICTS[finding.result.verdict]}:
            found.append((finding, kind))
    found.sort(key=lambda one: (_ORDER.index(one[0].result.verdict), -_ratio(one[0])))
    return pb.DriftResponse(
        findings=[_finding(finding, kind) for finding, kind in found], checked_at_unix_us=report.at_us
    )


def kind_of(finding: Finding) -> pb.DriftKind.ValueType | None:
    """Gives the kind of drift that a finding is about; None for rates, which are no drift."""
    if finding.result.aspect is Aspect.PREDICTION and finding.result.subject == "confidence":
        return pb.DRIFT_KIND_CONFIDENCE
    return _KINDS.get(finding.result.aspect)


def _finding(finding: Finding, kind: pb.DriftKind.ValueType) -> pb.DriftFinding:
    result = finding.result
    by_feature = kind in {pb.DRIFT_KIND_FEATURE, pb.DRIFT_KIND_DATA_QUALITY}
    message = pb.DriftFinding(
        family=finding.family,
        kind=kind,
        arm=finding.arm,
        variant=finding.variant,
        feature=result.subject if by_feature else "",
        test=result.test,
        reference=_window(result.reference, finding, first=True),
        current=_window(result.current, finding, first=False),
        effect=_finite(result.effect),
        effect_name=result.measure,
        effect_limit=_finite(result.limit),
        verdict=_VERDICTS[result.verdict],
        summary=result.detail,
    )
    if math.isfinite(result.p_value):
        message.p_value = min(max(result.p_value, 0.0), 1.0)
    return message


def _window(window: Window, finding: Finding, *, first: bool) -> pb.Window:
    """Gives a window; of an online monitor's only one end is known as an instant, and the number of decisions."""
    if not finding.online:
        start, end = (int(at * _SECOND_US) for at in (window.start, window.end))
        return pb.Window(start_unix_us=start, end_unix_us=end, count=window.decisions)
    if first:
        return pb.Window(start_unix_us=finding.since_us, count=window.decisions)
    return pb.Window(end_unix_us=finding.until_us, count=window.decisions)


def _part(part: Part) -> pb.DimensionHealth:
    return pb.DimensionHealth(
        dimension=_DIMENSIONS[part.dimension],
        family=part.family,
        state=_STATES[part.state],
        reasons=part.reasons,
        measures=[_measure(number) for number in part.numbers],
    )


def _measure(number: Number) -> pb.Measure:
    message = pb.Measure(name=number.name, value=_finite(number.value), unit=number.unit)
    if number.limit is not None:
        message.limit = number.limit
    return message


def _ratio(finding: Finding) -> float:
    result = finding.result
    return _finite(result.effect / result.limit if result.limit > 0 else result.effect)


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0
