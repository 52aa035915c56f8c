"""The words of alerts: types, severities, states, and how alerts of each type behave by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

SECOND_US: Final = 1_000_000


class AlertType(StrEnum):
    """What is wrong; the value is how labels, settings and the database write it."""

    PREDICTION_DRIFT = "prediction_drift"
    FEATURE_DRIFT = "feature_drift"
    CONCEPT_DRIFT = "concept_drift"
    PERFORMANCE_DEGRADATION = "performance_degradation"
    DATA_QUALITY = "data_quality"
    HIGH_FALLBACK_RATE = "high_fallback_rate"
    LOW_CONFIDENCE = "low_confidence"
    HIGH_LATENCY = "high_latency"
    HIGH_ERROR_RATE = "high_error_rate"
    MODEL_UNAVAILABLE = "model_unavailable"
    SAMPLE_RATIO_MISMATCH = "sample_ratio_mismatch"
    STALE_MODEL = "stale_model"
    RETRAINING_FAILED = "retraining_failed"
    DATABASE_UNAVAILABLE = "database_unavailable"
    MONITORING_FAILED = "monitoring_failed"


class Severity(IntEnum):
    """How bad it is, rising; the numbers are those of the proto."""

    INFO = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5

    @property
    def word(self) -> str:
        """The name in lower case."""
        return self.name.lower()

    @property
    def priority(self) -> str | None:
        """P0, P1 or P2 (get up, today, this week); None for what no one is called for."""
        return _PRIORITIES.get(self)

    def above(self, steps: int) -> Severity:
        """Gives the severity that many steps up, at most CRITICAL."""
        return Severity(min(self + steps, Severity.CRITICAL))


_PRIORITIES: Final = {Severity.CRITICAL: "P0", Severity.HIGH: "P1", Severity.MEDIUM: "P2"}


class State(IntEnum):
    """Where an alert is in its life; the numbers are those of the proto."""

    PENDING = 1
    FIRING = 2
    RESOLVED = 3


class EventKind(IntEnum):
    """What happened to an alert; the numbers are those of the proto."""

    PENDING = 1
    DROPPED = 2
    FIRED = 3
    ESCALATED = 4
    FLAPPING = 5
    RESOLVED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How alerts of one type behave. Durations are whole seconds."""

    disabled: bool = False
    for_seconds: int = 0
    recover_seconds: int = 0
    severity: Severity = Severity.MEDIUM
    escalate_seconds: int = 0
    escalate_to: Severity = Severity.CRITICAL
    hold_down_seconds: int = 3600
    flap_half_life_seconds: int = 3600
    flap_limit: int = 4
    forget_seconds: int = 86_400
    """A firing alert that nobody looks at any more (its experiment was removed) is resolved after this long."""


_DAY: Final = 86_400
DEFAULT_RULES: Final[Mapping[AlertType, Rule]] = {
    # P0 of the deployment family's list: the model cannot load, the error rate is over its limit.
    AlertType.MODEL_UNAVAILABLE: Rule(severity=Severity.CRITICAL, for_seconds=60, recover_seconds=60),
    AlertType.HIGH_ERROR_RATE: Rule(severity=Severity.CRITICAL, recover_seconds=300),
    AlertType.DATABASE_UNAVAILABLE: Rule(severity=Severity.CRITICAL, recover_seconds=60),
    # P1: quality under its limit, drift of features. A worse measure comes with a worse severity of its condition.
    AlertType.PERFORMANCE_DEGRADATION: Rule(severity=Severity.HIGH, recover_seconds=600),
    AlertType.FEATURE_DRIFT: Rule(severity=Severity.HIGH, recover_seconds=600),
    AlertType.CONCEPT_DRIFT: Rule(severity=Severity.HIGH, recover_seconds=600),
    # Only the next training can tell, and it may be a month away.
    AlertType.RETRAINING_FAILED: Rule(severity=Severity.HIGH, escalate_seconds=7 * _DAY, forget_seconds=45 * _DAY),
    AlertType.MONITORING_FAILED: Rule(severity=Severity.HIGH, escalate_seconds=3600),
    AlertType.SAMPLE_RATIO_MISMATCH: Rule(severity=Severity.HIGH, recover_seconds=600),
    # P2: slow or stale, and what grows into P1 when nobody looks.
    AlertType.PREDICTION_DRIFT: Rule(
        severity=Severity.MEDIUM, recover_seconds=600, escalate_seconds=_DAY, escalate_to=Severity.HIGH
    ),
    AlertType.DATA_QUALITY: Rule(
        severity=Severity.MEDIUM, recover_seconds=600, escalate_seconds=_DAY, escalate_to=Severity.HIGH
    ),
    AlertType.HIGH_FALLBACK_RATE: Rule(
        severity=Severity.MEDIUM, recover_seconds=300, escalate_seconds=1800, escalate_to=Severity.HIGH
    ),
    AlertType.LOW_CONFIDENCE: Rule(
        severity=Severity.MEDIUM, recover_seconds=600, escalate_seconds=_DAY, escalate_to=Severity.HIGH
    ),
    AlertType.HIGH_LATENCY: Rule(
        severity=Severity.MEDIUM, for_seconds=300, recover_seconds=300, escalate_seconds=3600, escalate_to=Severity.HIGH
    ),
    AlertType.STALE_MODEL: Rule(
        severity=Severity.MEDIUM, escalate_seconds=45 * _DAY, escalate_to=Severity.HIGH, forget_seconds=7 * _DAY
    ),
}
"""One rule a type: a type without one would fail the test that compares the two."""


def graded(value: float, bands: Sequence[tuple[float, Severity]]) -> Severity | None:
    """Gives the worst severity whose limit a value exceeds, None when it exceeds none.

    Args:
        value: an effect; larger is worse.
        bands: (limit, severity) in any order.
    """
    return max((severity for limit, severity in bands if value > limit), default=None)
