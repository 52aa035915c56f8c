"""The limits of a family: its own declaration, and over it what the settings say. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bentos.family import Family
from bentos.thresholds import Thresholds
from services.runtime.monitoring_config import MonitoringSettings, ThresholdValues

MONITORS_SHARE: Final = 0.7
"""Share of a family's false-alarm rate for the online monitors of all its arms and versions."""
WINDOWS_SHARE: Final = 0.2
"""For comparisons of windows, rates, and absolute limits of quality."""
QUALITY_LIMITS_SHARE: Final = 0.1
"""For absolute limits of quality, of the windows' share: half of that of answers, which no windows are compared by."""
TRAINED_SHARE: Final = 0.1
"""For the bounds of the training, of the windows' share: the other half."""
RATIO_SHARE: Final = 0.1
"""For the ratio of the samples. The shares sum to 1."""
_SAME: Final = {
    "null_rate": "null_rate",
    "outlier_rate": "outlier_rate",
    "schema_violation_rate": "schema_violation_rate",
    "fallback_rate": "fallback_rate",
    "error_rate": "error_rate",
    "low_confidence": "low_confidence",
    "low_confidence_rate": "low_confidence_rate",
    "accuracy": "accuracy",
    "false_alarm_rate": "false_alarm_rate",
}
"""Names of the settings' thresholds and of the declaration's."""
_SMALLEST_WINDOW: Final = 30


def declared(family: Family) -> dict[str, float]:
    """Gives what a family's declaration says of the settings' thresholds, as far as it differs from the default."""
    usual = Thresholds()
    found: dict[str, float] = {}
    for theirs, ours in _SAME.items():
        value = getattr(family.thresholds, ours)
        if value is not None and value != getattr(usual, ours):
            found[theirs] = value
    if family.thresholds.minimum_decisions != usual.minimum_decisions:
        found["min_decisions"] = family.thresholds.minimum_decisions
    return found


def limits_of(family: Family, settings: MonitoringSettings) -> ThresholdValues:
    """Gives the limits that rates, latencies and qualities of a family are held against."""
    return settings.thresholds_of(family.name, declared(family))


def thresholds_of(family: Family, settings: MonitoringSettings, share: float) -> Thresholds:
    """Gives the limits for tests of drift, with a share of the family's false-alarm rate.

    `drift_effect` of the settings takes the place of both effects of the declaration.
    """
    said = settings.thresholds.model_dump(exclude_none=True)
    if family.name in settings.families:
        said |= settings.families[family.name].model_dump(exclude_none=True)
    changes: dict[str, float] = {ours: said[theirs] for theirs, ours in _SAME.items() if theirs in said}
    if "min_decisions" in said:
        changes["minimum_decisions"] = max(int(said["min_decisions"]), _SMALLEST_WINDOW)
    if "drift_effect" in said:
        effect = min(max(said["drift_effect"], 0.01), 0.5)
        changes |= {"feature_effect": effect, "prediction_effect": effect}
    merged = replace(family.thresholds, **changes)  # type: ignore[arg-type]
    return replace(merged, false_alarm_rate=max(merged.false_alarm_rate * share, 1e-6))
