"""Health in four dimensions, from what a cycle saw. Pure; liveness does not depend on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

from monitoring.alerts.conditions import Condition, Verdict
from monitoring.alerts.kinds import AlertType, Severity
from monitoring.cycle.findings import FamilySeen
from monitoring.cycle.platform import Platform
from services.runtime.monitoring_config import ThresholdValues


class State(IntEnum):
    """How well something does; the numbers are those of the proto."""

    HEALTHY = 1
    DEGRADED = 2
    UNHEALTHY = 3


class Dimension(Enum):
    """Which part of the platform."""

    DATABASE = "database"
    MODEL = "model"
    PREDICTIONS = "predictions"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Number:
    """A number behind a state."""

    name: str
    value: float
    unit: str = "1"
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One dimension, of the platform (no family) or of a family."""

    dimension: Dimension
    family: str
    state: State
    reasons: tuple[str, ...]
    """Worst first; of a healthy one, what nobody can tell yet."""
    numbers: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Health:
    """What the last cycle found."""

    parts: tuple[Part, ...] = ()
    checked_at_us: int = 0
    """When it ended; 0 before the first one."""
    next_check_us: int = 0
    cycle_seconds: float = 0.0

    @property
    def state(self) -> State | None:
        """The worst of all; None before the first cycle."""
        return max((part.state for part in self.parts), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSeen:
    """How the database did in a cycle."""

    failure: str = ""
    """Why the cycle failed; empty when it did not."""
    readable: bool
    writable: bool
    seconds: float
    """Time that the cycle's reads took."""
    bytes: int = 0
    alerts_wait: bool = False
    unwatched: int = 0
    """Decisions that were stored and not watched since the start."""


_MODEL = (AlertType.STALE_MODEL, AlertType.CONCEPT_DRIFT, AlertType.PERFORMANCE_DEGRADATION)
_PREDICTIONS = (
    AlertType.HIGH_ERROR_RATE,
    AlertType.HIGH_LATENCY,
    AlertType.LOW_CONFIDENCE,
    AlertType.PREDICTION_DRIFT,
    AlertType.FEATURE_DRIFT,
    AlertType.DATA_QUALITY,
    AlertType.SAMPLE_RATIO_MISMATCH,
)


def database_part(seen: DatabaseSeen) -> Part:
    """Judges the database."""
    reasons: list[tuple[State, str]] = []
    if not seen.readable:
        reasons.append((State.UNHEALTHY, "the database cannot be read"))
    if not seen.writable:
        reasons.append((State.UNHEALTHY, "the database cannot be written: routers keep their records meanwhile"))
    if seen.failure and seen.readable:
        sentence = "the check cycle failed, and what is told of decisions is of the one before; the hub's log says why"
        reasons.append((State.DEGRADED, sentence))
    if seen.alerts_wait:
        reasons.append((State.DEGRADED, "changes of alerts wait in memory for the database"))
    if seen.unwatched:
        reasons.append((State.DEGRADED, f"{seen.unwatched} decisions were stored and not watched: monitors were late"))
    numbers = (
        Number("read_seconds", seen.seconds, "s"),
        Number("database_bytes", float(seen.bytes), "bytes"),
        Number("unwatched_decisions", float(seen.unwatched)),
    )
    return _part(Dimension.DATABASE, "", reasons, numbers)


def family_parts(
    seen: FamilySeen, conditions: Sequence[Condition], platform: Platform, limits: ThresholdValues
) -> tuple[Part, Part, Part]:
    """Judges model, predictions and fallback of a family from its conditions and its traffic."""
    own = _held(conditions, seen.family)
    return _model(seen.family, own, platform), _predictions(seen, own, limits), _fallback(seen, own, limits)


def parts_without_traffic(
    last: Sequence[Part], models: Sequence[Condition], before: Sequence[Condition], platform: Platform
) -> list[Part]:
    """Judges families when the ledger cannot be read: models by what routers tell, the rest stands as it was.

    Args:
        last: parts of the cycle before.
        models: conditions of models, as they are now.
        before: conditions of the last cycle that could read.
        platform: what runs now.
    """
    told = {one.type for one in models}
    conditions = [*models, *(one for one in before if one.type not in told)]
    families = {part.family for part in last if part.family} | set(platform.families)
    parts = [_model(name, _held(conditions, name), platform) for name in sorted(families)]
    parts += [part for part in last if part.family and part.dimension is not Dimension.MODEL]
    return sorted(parts, key=lambda part: part.family)


def platform_parts(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Sums each dimension of all families up to one of the platform: the worst state, and how many families have it."""
    found = []
    for dimension in (Dimension.MODEL, Dimension.PREDICTIONS, Dimension.FALLBACK):
        own = [part for part in parts if part.dimension is dimension]
        unwell = [part for part in own if part.state is not State.HEALTHY]
        reasons = [(part.state, f"{part.family}: {reason}") for part in unwell for reason in part.reasons]
        numbers = (
            Number("families", float(len(own))),
            Number("degraded", float(sum(part.state is State.DEGRADED for part in own))),
            Number("unhealthy", float(sum(part.state is State.UNHEALTHY for part in own))),
        )
        found.append(_part(dimension, "", reasons, numbers))
    return tuple(found)


def _held(conditions: Sequence[Condition], family: str) -> list[Condition]:
    return [one for one in conditions if one.labels.get("family") == family and one.verdict is Verdict.HOLDS]


def _model(family: str, own: Sequence[Condition], platform: Platform) -> Part:
    served = [one for one in platform.served if one.family == family]
    away = [one.variant for one in served if one.ready is False and not one.sleeps]
    reasons: list[tuple[State, str]] = []
    if served and all(one.ready is None for one in served):
        reasons.append((State.HEALTHY, "no router has told yet which variants it reaches"))
    if away:
        worst = State.UNHEALTHY if len(away) == len(served) else State.DEGRADED
        reasons.append((worst, f"no router can reach {', '.join(sorted(away))}"))
    for one in own:
        if one.type in _MODEL:
            worst = State.UNHEALTHY if one.severity is Severity.CRITICAL else State.DEGRADED
            reasons.append((worst, one.summary))
    numbers = (Number("variants", float(len(served))), Number("unavailable", float(len(away)), limit=0.0))
    return _part(Dimension.MODEL, family, reasons, numbers)


def _predictions(seen: FamilySeen, own: Sequence[Condition], limits: ThresholdValues) -> Part:
    decisions = sum(arm.totals.decisions for arm in seen.arms)
    errors = sum(arm.totals.errors for arm in seen.arms)
    slowest = max((arm.totals.quantile("latency", 0.95) or 0.0 for arm in seen.arms), default=0.0) / 1000
    reasons = [
        (State.UNHEALTHY if one.type is AlertType.HIGH_ERROR_RATE else State.DEGRADED, one.summary)
        for one in own
        if one.type in _PREDICTIONS
    ]
    if not decisions:
        minutes = (seen.window_us[1] - seen.window_us[0]) / 60e6
        quiet = f"no decision in the last {minutes:.0f} minutes" if seen.ever else "no traffic seen yet"
        reasons.append((State.HEALTHY, quiet))
    numbers = [Number("decisions", float(decisions)), Number("arms", float(len(seen.arms)))]
    if decisions:
        numbers.append(Number("error_rate", errors / decisions, limit=limits.error_rate))
        numbers.append(Number("latency_p95", slowest, "ms", limits.latency_p95_ms))
    return _part(Dimension.PREDICTIONS, seen.family, reasons, tuple(numbers))


def _fallback(seen: FamilySeen, own: Sequence[Condition], limits: ThresholdValues) -> Part:
    decisions = sum(arm.totals.decisions for arm in seen.arms)
    fallbacks = decisions - sum(arm.totals.served for arm in seen.arms)
    reasons = []
    for one in own:
        if one.type is AlertType.HIGH_FALLBACK_RATE:
            over = one.value is not None and one.value > limits.fallback_rate_unhealthy
            reasons.append((State.UNHEALTHY if over else State.DEGRADED, one.summary))
    numbers = [Number("decisions", float(decisions))]
    if decisions:
        numbers.append(Number("fallback_rate", fallbacks / decisions, limit=limits.fallback_rate))
    return _part(Dimension.FALLBACK, seen.family, reasons, tuple(numbers))


def _part(dimension: Dimension, family: str, reasons: Sequence[tuple[State, str]], numbers: tuple[Number, ...]) -> Part:
    ordered = sorted(reasons, key=lambda reason: -reason[0])
    worst = max((state for state, _ in ordered), default=State.HEALTHY)
    return Part(dimension, family, worst, tuple(text for _, text in ordered[:20]), numbers)
