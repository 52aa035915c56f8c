"""What a cycle tells the log and Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from monitoring.cycle.findings import FamilySeen
from monitoring.cycle.health import Health, State
from monitoring.drift.results import Aspect
from monitoring.ledger.tally import Count
from monitoring.metrics import MonitoringMetrics

if TYPE_CHECKING:
    from monitoring.cycle.running import Report

_log: Final[Any] = structlog.get_logger(__name__)
_KINDS: Final = {
    Aspect.FEATURE: "feature",
    Aspect.JOINT: "joint",
    Aspect.PREDICTION: "prediction",
    Aspect.CONCEPT: "concept",
    Aspect.QUALITY: "data_quality",
    Aspect.PERFORMANCE: "performance",
}


def log_health(health: Health) -> None:
    """Writes one line for each dimension, with reasons and numbers; louder the worse it is."""
    for part in health.parts:
        say = _log.info if part.state is State.HEALTHY else _log.warning
        say(
            "health",
            dimension=part.dimension.value,
            family=part.family,
            state=part.state.name.lower(),
            reasons=list(part.reasons),
            **{number.name: round(number.value, 6) for number in part.numbers},
        )


def tell_metrics(
    metrics: MonitoringMetrics, health: Health, seen: Sequence[FamilySeen], report: Report, *, done: bool
) -> None:
    """States health, accuracy and sizes of drift."""
    for part in health.parts:
        metrics.health(part.dimension.value, part.family, int(part.state))
    for one in seen:
        for variant in sorted({key[2] for key in one.labelled}):
            totals = [found for key, found in one.labelled.items() if key[2] == variant]
            right = sum(t.count(Count.TRUE_POSITIVES) + t.count(Count.TRUE_NEGATIVES) for t in totals)
            wrong = sum(t.count(Count.FALSE_POSITIVES) + t.count(Count.FALSE_NEGATIVES) for t in totals)
            if right + wrong:
                metrics.accuracy(one.family, variant, right / (right + wrong))
    for finding in report.findings:
        kind, result = _KINDS.get(finding.result.aspect), finding.result
        if done and kind is not None and result.limit > 0:
            metrics.drift(finding.family, kind, finding.variant, result.subject, result.effect / result.limit)
    metrics.cycle(health.cycle_seconds, ended_at=health.checked_at_us / 1e6, done=done)
