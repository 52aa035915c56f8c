"""The online monitor of one arm: everything that is watched decision by decision, in constant memory.

The arm's first `reference_decisions` are the reference. The false-alarm rate of the thresholds is shared out among the
tests, so that an arm without drift raises anything, ever, with at most that chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray

from bentos.family import Family, TargetKind
from bentos.schema import Category, Feature, Flag, Number
from bentos.thresholds import Thresholds
from monitoring.drift import state
from monitoring.drift.binning import Kind
from monitoring.drift.concept import ConceptMonitor, ConceptSettings
from monitoring.drift.distributions import DistributionMonitor, DistributionSettings
from monitoring.drift.joint import JointMonitor
from monitoring.drift.performance import PerformanceMonitor
from monitoring.drift.quality import QualityMonitor
from monitoring.drift.rates import RateMonitor, RateSettings
from monitoring.drift.results import Aspect, DriftResult
from services.runtime.errors import InvalidArgument

SHARES: Final = {
    Aspect.FEATURE: 0.25,
    Aspect.JOINT: 0.1,
    Aspect.PREDICTION: 0.15,
    Aspect.CONCEPT: 0.15,
    Aspect.QUALITY: 0.1,
    Aspect.PERFORMANCE: 0.15,
    Aspect.RATE: 0.1,
}
"""How the false-alarm rate is shared out; the shares sum to 1."""
RATES: Final = ("fallback rate", "low-confidence rate", "error rate of calls")


@dataclass(frozen=True, slots=True)
class Watched:
    """What an arm's monitor needs to know of its family."""

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    target: TargetKind

    @staticmethod
    def of(family: Family) -> Watched:
        """Takes it from a family's declaration."""
        features = family.schema.features
        return Watched(family.schema.names, tuple(_kind(feature) for feature in features), family.target.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Decisions of one arm in the order in which they were stored; arrays of n each.

    `rows` float32 [n, features] in the schema's order, NaN for missing; `scores` and `confidences` as answered, NaN
    where a call failed; flags say what happened to each.
    """

    rows: NDArray[np.float32]
    scores: NDArray[np.floating]
    confidences: NDArray[np.floating]
    fallback: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    violations: NDArray[np.bool_]


class ArmMonitor:
    """Watches one arm. The seed breaks ties; the same decisions in the same batches give the same results."""

    def __init__(self, watched: Watched, thresholds: Thresholds, *, seed: int) -> None:
        self.watched = watched
        self.thresholds = thresholds
        self.seed = seed
        alpha = {aspect: share * thresholds.false_alarm_rate for aspect, share in SHARES.items()}
        features = self._settings(Aspect.FEATURE, thresholds.feature_effect, 0)
        self._features = DistributionMonitor(watched.names, watched.kinds, features)
        joint = self._settings(Aspect.JOINT, thresholds.feature_effect, 1)
        self._joint = JointMonitor(len(watched.names), joint)
        answers = self._settings(Aspect.PREDICTION, thresholds.prediction_effect, 2)
        self._answers = DistributionMonitor(("score", "confidence"), (Kind.NUMBER, Kind.NUMBER), answers)
        self._quality = QualityMonitor(watched.names, watched.kinds, thresholds, alpha[Aspect.QUALITY])
        limits = (thresholds.fallback_rate, thresholds.low_confidence_rate, thresholds.error_rate)
        minimum = thresholds.minimum_decisions
        self._rates = RateMonitor(
            RATES, limits, RateSettings(aspect=Aspect.RATE, alpha=alpha[Aspect.RATE], minimum=minimum)
        )
        binary = watched.target is TargetKind.BINARY
        self._performance = PerformanceMonitor(thresholds, alpha[Aspect.PERFORMANCE], probabilities=binary)
        self._concept: ConceptMonitor | DistributionMonitor
        if binary:
            self._concept = ConceptMonitor(
                ConceptSettings(
                    alpha=alpha[Aspect.CONCEPT],
                    tolerance=thresholds.calibration_tolerance,
                    reference=thresholds.reference_decisions,
                    minimum=minimum,
                )
            )
        else:
            residuals = self._settings(Aspect.CONCEPT, thresholds.prediction_effect, 3)
            self._concept = DistributionMonitor(("residual",), (Kind.NUMBER,), residuals)

    def _settings(self, aspect: Aspect, effect: float, stream: int) -> DistributionSettings:
        return DistributionSettings(
            aspect=aspect,
            effect=effect,
            alpha=SHARES[aspect] * self.thresholds.false_alarm_rate,
            reference=self.thresholds.reference_decisions,
            minimum=self.thresholds.minimum_decisions,
            # Each test has ties broken by numbers of its own.
            seed=(self.seed << 34) + (stream << 32),
        )

    def update(self, batch: Batch) -> None:
        """Takes decisions.

        Raises:
            InvalidArgument: the arrays do not fit one another or the family.
        """
        n = len(batch.rows)
        columns = (batch.scores, batch.confidences, batch.fallback, batch.failed, batch.violations)
        if any(column.shape != (n,) for column in columns):
            raise InvalidArgument("batch", f"every array of a batch has one value for each of its {n} rows")
        if not n:
            return
        self._features.update(batch.rows)
        self._joint.update(batch.rows)
        # A call without an answer is a matter of the rates; it must not look like a shift of the answers.
        answers = np.column_stack((batch.scores, batch.confidences)).astype(np.float32)
        self._answers.update(answers[~np.isnan(batch.scores)])
        self._quality.update(batch.rows, batch.violations)
        unsure = np.where(np.isnan(batch.confidences), np.nan, batch.confidences < self.thresholds.low_confidence)
        self._rates.update(np.column_stack((batch.fallback, unsure, batch.failed)).astype(np.float64))

    def label(self, predictions: NDArray[np.floating], outcomes: NDArray[np.floating]) -> None:
        """Takes decisions whose outcomes became known, in the order in which they did: both [n].

        Raises:
            InvalidArgument: the arrays do not fit one another or the target.
        """
        if isinstance(self._concept, ConceptMonitor):
            self._concept.update(predictions, outcomes)
            self._performance.update(predictions, outcomes)
        else:
            self._performance.update(predictions, outcomes)
            self._concept.update((outcomes - predictions).astype(np.float32)[:, None])

    def results(self) -> tuple[DriftResult, ...]:
        """Gives every test's result as of now; the false-alarm rate holds however often this is asked."""
        return (
            *self._features.results(),
            *self._joint.results(),
            *self._answers.results(),
            *self._concept.results(),
            *self._performance.results(),
            *self._quality.results(),
            *self._rates.results(),
        )

    def to_bytes(self) -> bytes:
        """Gives the state; its size does not depend on the number of decisions."""
        parts = {
            "features": self._features.to_bytes(),
            "joint": self._joint.to_bytes(),
            "answers": self._answers.to_bytes(),
            "concept": self._concept.to_bytes(),
            "performance": self._performance.to_bytes(),
            "quality": self._quality.to_bytes(),
            "rates": self._rates.to_bytes(),
        }
        arrays = {name: np.frombuffer(part, np.uint8) for name, part in parts.items()}
        return state.pack("arm", {"seed": self.seed, "names": self.watched.names}, arrays)

    @staticmethod
    def from_bytes(data: bytes, watched: Watched, thresholds: Thresholds) -> ArmMonitor:
        """Restores a monitor; tests under way keep the thresholds with which they began.

        Raises:
            InvalidArgument: the bytes are not a state of a monitor of these features.
        """
        fields, arrays = state.unpack("arm", data)
        with state.checked("arm"):
            if tuple(fields["names"]) != watched.names:
                raise InvalidArgument("state", "the state is of other features; begin a new reference")
            monitor = ArmMonitor(watched, thresholds, seed=int(fields["seed"]))
            parts = {name: array.tobytes() for name, array in arrays.items()}
            monitor._features = DistributionMonitor.from_bytes(parts["features"])
            monitor._joint = JointMonitor.from_bytes(parts["joint"])
            monitor._answers = DistributionMonitor.from_bytes(parts["answers"])
            monitor._concept = type(monitor._concept).from_bytes(parts["concept"])
            monitor._performance.restore(parts["performance"])
            monitor._quality.restore(parts["quality"])
            monitor._rates = RateMonitor.from_bytes(parts["rates"])
        return monitor


def _kind(feature: Feature) -> Kind:
    match feature:
        case Number():
            return Kind.NUMBER
        case Category() | Flag():
            return Kind.CATEGORY
        case _ as never:
            assert_never(never)
