"""What is known of the decisions of one cell in one window: counts, exact sums, and sketches of distributions.

Everything but the sketches can be taken away again: a corrected outcome subtracts what the old one had added. The
sketches hold decisions only, and those are never corrected; of a decision that gave way to an earlier record of the
same id its old value stays in the sketches, and `replaced` counts how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np
from datasketches import kll_doubles_sketch, kll_floats_sketch
from numpy.typing import NDArray

from monitoring.ledger.exact import added, exact_sum, pack, unpack

REASONS: Final = 32
"""Places for reasons of fallbacks; 0 is an answer of the arm's own variant. Unknown ones share the last place."""
BINS: Final = 20
"""Bins of the calibration table, of equal width over the target's range."""
SKETCH_K: Final = 200
"""Size of the sketches: a rank is wrong by less than 1.65 % (0.0165 at 99 % confidence, datasketches' own figure)."""
FIXED_POINT: Final = 1 << 24
"""Predictions and outcomes in the calibration table are whole numbers of 2^-24 of the target's range."""
THRESHOLD: Final = 0.5
"""From here on the predicted label of a binary target is 1."""
_CLIP: Final = 1e-15


class Count(IntEnum):
    """Places in the vector of counts; reasons of fallbacks follow the last one."""

    DECISIONS = 0
    REPLACED = 1
    """Decisions that gave way to an earlier record of the same id; the sketches still hold their values."""
    OUTCOMES = 2
    """Decisions with an outcome that can be used."""
    UNFIT = 3
    """Decisions whose newest outcome is no possible value of the target: neither 0 nor 1 for a binary one."""
    COSTS = 4
    TRUE_POSITIVES = 5
    FALSE_POSITIVES = 6
    TRUE_NEGATIVES = 7
    FALSE_NEGATIVES = 8
    REASON = 9


COUNTS: Final = Count.REASON + REASONS


class Sum(IntEnum):
    """Sums over all decisions."""

    VALUE = 0
    VALUE_SQUARED = 1
    CONFIDENCE = 2
    CONFIDENCE_SQUARED = 3
    LATENCY = 4
    """Microseconds."""
    LATENCY_SQUARED = 5


class OutcomeSum(IntEnum):
    """Sums over the decisions with an outcome: y is the outcome, v the predicted value."""

    OUTCOME = 0
    OUTCOME_SQUARED = 1
    VALUE = 2
    VALUE_SQUARED = 3
    PRODUCT = 4
    """v·y."""
    ABSOLUTE_ERROR = 5
    SQUARED_ERROR = 6
    """(v − y)²; for a binary target the Brier score's sum."""
    LOG_LOSS = 7
    """−log of the probability of what happened, v clipped to [1e-15, 1 − 1e-15]; binary targets only."""
    COST = 8
    COST_SQUARED = 9


class Calibration(IntEnum):
    """Rows of the calibration table; each has BINS columns."""

    COUNT = 0
    PREDICTION = 1
    """Sum of predictions, as fractions of the target's range in FIXED_POINT."""
    OUTCOME = 2
    """Sum of outcomes, likewise; outcomes outside of the range count as its ends."""


class TargetRange(NamedTuple):
    """What the statistics must know of a family's target; `low` and `high` are None when the family is unknown."""

    binary: bool
    low: float | None
    high: float | None


UNKNOWN_TARGET: Final = TargetRange(binary=False, low=None, high=None)


class Outcomes(NamedTuple):
    """Outcomes of decisions of one family, as arrays of the same length."""

    sign: NDArray[np.int64]
    """1 for one that is added, −1 for one that is taken away."""
    value: NDArray[np.float64]
    """Predicted value."""
    outcome: NDArray[np.float64]
    cost: NDArray[np.float64]
    """NaN where none was reported."""


@dataclass(slots=True)
class Statistics:
    """Statistics of one cell in one window."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(COUNTS, np.int64))
    calibration: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(Calibration), BINS), np.int64))
    sums: list[int] = field(default_factory=lambda: [0] * len(Sum))
    outcome_sums: list[int] = field(default_factory=lambda: [0] * len(OutcomeSum))
    latency: Any = field(default_factory=lambda: kll_floats_sketch(SKETCH_K))
    """KLL sketch of the time to answer, in microseconds."""
    value: Any = field(default_factory=lambda: kll_doubles_sketch(SKETCH_K))
    confidence: Any = field(default_factory=lambda: kll_floats_sketch(SKETCH_K))

    def add_decisions(
        self,
        values: NDArray[np.float64],
        confidences: NDArray[np.float64],
        latencies: NDArray[np.float64],
        reasons: NDArray[np.int64],
    ) -> None:
        """Counts decisions; the arrays have one entry each. Latencies are microseconds."""
        self._count(values, confidences, latencies, reasons, 1)
        self.latency.update(latencies.astype(np.float32))
        self.value.update(values)
        self.confidence.update(confidences.astype(np.float32))

    def replace_decisions(
        self,
        values: NDArray[np.float64],
        confidences: NDArray[np.float64],
        latencies: NDArray[np.float64],
        reasons: NDArray[np.int64],
    ) -> None:
        """Takes decisions away from all but the sketches."""
        self._count(values, confidences, latencies, reasons, -1)
        self.counts[Count.REPLACED] += values.size

    def _count(
        self,
        values: NDArray[np.float64],
        confidences: NDArray[np.float64],
        latencies: NDArray[np.float64],
        reasons: NDArray[np.int64],
        sign: int,
    ) -> None:
        self.counts[Count.DECISIONS] += sign * values.size
        self.counts[Count.REASON :] += sign * np.bincount(reasons, minlength=REASONS)
        terms = (values, values * values, confidences, confidences * confidences, latencies, latencies * latencies)
        self.sums = [held + sign * exact_sum(term) for held, term in zip(self.sums, terms, strict=True)]

    def change_outcomes(self, outcomes: Outcomes, target: TargetRange) -> None:
        """Adds outcomes and takes others away, each by its sign."""
        if target.binary:
            fit = (outcomes.outcome == 0.0) | (outcomes.outcome == 1.0)
            self.counts[Count.UNFIT] += int(outcomes.sign[~fit].sum())
            outcomes = Outcomes(*(column[fit] for column in outcomes))
        sign, value, outcome, cost = outcomes
        self.counts[Count.OUTCOMES] += int(sign.sum())
        error = value - outcome
        signs = sign.astype(np.float64)
        with_cost = ~np.isnan(cost)
        costs = np.where(with_cost, cost, 0.0)
        self.counts[Count.COSTS] += int(sign[with_cost].sum())
        loss = np.array(log_losses(value.tolist(), outcome.tolist()) if target.binary else [0.0] * value.size)
        terms = (
            outcome,
            outcome * outcome,
            value,
            value * value,
            value * outcome,
            np.abs(error),
            error * error,
            loss,
            costs,
            costs * costs,
        )
        self.outcome_sums = added(self.outcome_sums, [exact_sum(term * signs) for term in terms])
        if target.binary:
            said, was = value >= THRESHOLD, outcome == 1.0
            for place, chosen in (
                (Count.TRUE_POSITIVES, said & was),
                (Count.FALSE_POSITIVES, said & ~was),
                (Count.TRUE_NEGATIVES, ~said & ~was),
                (Count.FALSE_NEGATIVES, ~said & was),
            ):
                self.counts[place] += int(sign[chosen].sum())
        if target.low is not None and target.high is not None:
            self._calibrate(sign, value, outcome, target.low, target.high)

    def _calibrate(
        self,
        sign: NDArray[np.int64],
        value: NDArray[np.float64],
        outcome: NDArray[np.float64],
        low: float,
        high: float,
    ) -> None:
        said = np.clip((value - low) / (high - low), 0.0, 1.0)
        was = np.clip((outcome - low) / (high - low), 0.0, 1.0)
        places = np.minimum((said * BINS).astype(np.int64), BINS - 1)
        np.add.at(self.calibration[Calibration.COUNT], places, sign)
        np.add.at(self.calibration[Calibration.PREDICTION], places, sign * np.rint(said * FIXED_POINT).astype(np.int64))
        np.add.at(self.calibration[Calibration.OUTCOME], places, sign * np.rint(was * FIXED_POINT).astype(np.int64))

    def merge(self, other: Statistics) -> None:
        """Adds the statistics of other decisions."""
        self.counts += other.counts
        self.calibration += other.calibration
        self.sums = added(self.sums, other.sums)
        self.outcome_sums = added(self.outcome_sums, other.outcome_sums)
        self.latency.merge(other.latency)
        self.value.merge(other.value)
        self.confidence.merge(other.confidence)

    def as_columns(self) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes]:
        """Gives the columns of a row: counts, outcome sums, calibration, sums, and the three sketches."""
        return (
            *self.outcome_columns(),
            pack(self.sums),
            self.latency.serialize(),
            self.value.serialize(),
            self.confidence.serialize(),
        )

    def outcome_columns(self) -> tuple[bytes, bytes, bytes]:
        """Gives the columns that outcomes change: counts, outcome sums, calibration."""
        counts = self.counts.astype("<i8").tobytes()
        if not any(self.outcome_sums) and not self.calibration.any():
            return counts, b"", b""
        return counts, pack(self.outcome_sums), self.calibration.astype("<i8").tobytes()

    @classmethod
    def from_columns(  # noqa: PLR0917 - the columns of a row, in their order
        cls,
        counts: bytes,
        outcome_sums: bytes,
        calibration: bytes,
        sums: bytes,
        latency: bytes,
        value: bytes,
        confidence: bytes,
    ) -> Statistics:
        """Reads a row; the inverse of `as_columns`."""
        table = np.frombuffer(calibration, "<i8").astype(np.int64) if calibration else np.zeros(_CELLS, np.int64)
        return cls(
            np.frombuffer(counts, "<i8").astype(np.int64),
            table.reshape(len(Calibration), BINS),
            unpack(sums, len(Sum)),
            unpack(outcome_sums, len(OutcomeSum)),
            kll_floats_sketch.deserialize(latency),
            kll_doubles_sketch.deserialize(value),
            kll_floats_sketch.deserialize(confidence),
        )


_CELLS: Final = len(Calibration) * BINS


def log_losses(values: Sequence[float], outcomes: Sequence[float]) -> list[float]:
    """Gives −log of each outcome's probability; with `math`, whose result does not depend on the neighbours."""
    return [
        -math.log(min(max(v, _CLIP), 1 - _CLIP)) if y == 1.0 else -math.log1p(-min(max(v, _CLIP), 1 - _CLIP))
        for v, y in zip(values, outcomes, strict=True)
    ]
