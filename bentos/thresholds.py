"""From where on a family's data, answers or quality are worth an alert.

The defaults hold for any family. They are limits that a statistical test has to be sure of, not values at which an
alert fires: a rate counts as over its limit when chance alone would hardly explain it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """A family's limits. Rates are shares in [0, 1].

    Raises:
        ValueError: a value is out of its range; the text names the field and the range.
    """

    null_rate: float = 0.02
    """Missing values per feature; a feature that is missing more often in the reference may be so later as well."""
    outlier_rate: float = 0.03
    """Values of a feature farther than three interquartile ranges from the reference's quartiles."""
    schema_violation_rate: float = 0.0
    """Rows that do not fit the schema; at 0 the first one counts."""
    fallback_rate: float = 0.05
    """Decisions that somebody else than the assigned arm answered."""
    error_rate: float = 0.01
    """Calls that failed."""
    low_confidence_rate: float = 0.05
    """Decisions whose confidence lies under `low_confidence`."""
    low_confidence: float = 0.6
    """Confidence under which a decision counts as unsure."""
    accuracy: float | None = None
    """Smallest accuracy that is fine whatever the reference; None compares with the reference only."""
    accuracy_drop: float = 0.03
    """Loss of accuracy against the reference that is still fine."""
    brier_rise: float = 0.02
    """Rise of the Brier score (or of the scaled absolute error of numbers) against the reference that is still fine."""
    feature_effect: float = 0.05
    """Distance of a feature's distribution from the reference (Kolmogorov-Smirnov, in [0, 1]) that is still fine."""
    prediction_effect: float = 0.05
    """The same for scores and confidences."""
    calibration_tolerance: float = 0.02
    """Difference between predicted and observed frequency, beyond the reference's own, that is still fine."""
    false_alarm_rate: float = 0.05
    """Chance that an arm without any drift ever raises a statistical alert, over all features, tests and looks."""
    reference_decisions: int = 5_000
    """Decisions at the start of a run that later ones are compared with."""
    minimum_decisions: int = 200
    """Decisions in a window under which no verdict is given."""

    def __post_init__(self) -> None:
        """Refuses a value out of its range."""
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value is not None:
                _check(spec.name, float(value))


_RANGES: dict[str, tuple[float, float]] = {
    "feature_effect": (0.01, 0.5),
    "prediction_effect": (0.01, 0.5),
    "calibration_tolerance": (0.001, 0.5),
    "accuracy_drop": (0.001, 0.5),
    "brier_rise": (0.001, 0.5),
    "false_alarm_rate": (1e-6, 0.5),
    "reference_decisions": (500, 1_000_000),
    "minimum_decisions": (30, 1_000_000),
}


def _check(name: str, value: float) -> None:
    low, high = _RANGES.get(name, (0.0, 1.0))
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"threshold {name!r} must be from {low:g} to {high:g}, not {value:g}")
