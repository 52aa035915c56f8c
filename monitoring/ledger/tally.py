"""Counts and exact sums over decisions and outcomes: what can be added in any order and taken away again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.ledger.exact import added, exact_sum

REASONS: Final = 32
"""Places for reasons of fallbacks; 0 is an answer of the arm's own variant. Unknown ones share the last place."""
BINS: Final = 20
"""Bins of the calibration table, of equal width over the target's range."""
FIXED_POINT: Final = 1 << 24
"""Predictions and outcomes in the calibration table are whole numbers of 2^-24 of the target's range."""
THRESHOLD: Final = 0.5
"""From here on the predicted label of a binary target is 1."""
_CLIP: Final = 1e-15


class Count(IntEnum):
    """Places in the vector of counts; new ones come last, so that older rows can be read."""

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
    """The first of REASONS places."""
    RANKINGS = 9 + REASONS
    """Rankings that were measured."""


COUNTS: Final = Count.RANKINGS + 1


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
    NDCG = 10
    """Over rankings, not decisions."""
    NDCG_SQUARED = 11


class Calibration(IntEnum):
    """Rows of the calibration table; each has BINS columns."""

    COUNT = 0
    PREDICTION = 1
    """Sum of predictions, as fractions of the target's range in FIXED_POINT."""
    OUTCOME = 2
    """Sum of outcomes, likewise; outcomes outside of the range count as its ends."""
    DECIDED = 3
    """All decisions, with an outcome or without."""
    DECIDED_PREDICTION = 4
    """Sum of their predictions, as above."""


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


class Decisions(NamedTuple):
    """Decisions as arrays of the same length."""

    values: NDArray[np.float64]
    confidences: NDArray[np.float64]
    latencies: NDArray[np.float64]
    """Microseconds."""
    reasons: NDArray[np.int64]
    """Numbers of FallbackReason, under REASONS."""

    def of(self, part: NDArray[np.int64]) -> Decisions:
        """Gives some of the decisions."""
        return Decisions(self.values[part], self.confidences[part], self.latencies[part], self.reasons[part])


@dataclass(slots=True)
class Tally:
    """Counts and sums. Adding and taking away are exact, so the order in which it is done leaves no trace."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(COUNTS, np.int64))
    calibration: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(Calibration), BINS), np.int64))
    sums: list[int] = field(default_factory=lambda: [0] * len(Sum))
    outcome_sums: list[int] = field(default_factory=lambda: [0] * len(OutcomeSum))

    def add(self, other: Tally) -> None:
        """Adds what others were."""
        self.counts += other.counts
        self.calibration += other.calibration
        self.sums = added(self.sums, other.sums)
        if other.has_outcomes:
            self.outcome_sums = added(self.outcome_sums, other.outcome_sums)

    @property
    def has_outcomes(self) -> bool:
        """Whether outcomes left anything in the sums."""
        return any(self.outcome_sums)

    @classmethod
    def of_decisions(cls, decisions: Decisions, sign: int, target: TargetRange) -> Tally:
        """Counts decisions: `sign` 1 to add them, −1 to take them away."""
        values, confidences, latencies, reasons = decisions
        tally = cls()
        tally.counts[Count.DECISIONS] = sign * values.size
        tally.counts[Count.REPLACED] = values.size if sign < 0 else 0
        tally.counts[Count.REASON : Count.REASON + REASONS] = sign * np.bincount(reasons, minlength=REASONS)
        terms = (values, values * values, confidences, confidences * confidences, latencies, latencies * latencies)
        tally.sums = [sign * exact_sum(term) for term in terms]
        if target.low is not None and target.high is not None:
            said = np.clip((values - target.low) / (target.high - target.low), 0.0, 1.0)
            places = _places(said)
            tally.calibration[Calibration.DECIDED] = sign * np.bincount(places, minlength=BINS)
            np.add.at(tally.calibration[Calibration.DECIDED_PREDICTION], places, sign * _fixed(said))
        return tally

    @classmethod
    def of_outcomes(cls, outcomes: Outcomes, target: TargetRange) -> Tally:
        """Counts outcomes, each added or taken away by its sign."""
        tally = cls()
        if target.binary:
            fit = (outcomes.outcome == 0.0) | (outcomes.outcome == 1.0)
            tally.counts[Count.UNFIT] = int(outcomes.sign[~fit].sum())
            outcomes = Outcomes(*(column[fit] for column in outcomes))
        sign, value, outcome, cost = outcomes
        tally.counts[Count.OUTCOMES] = int(sign.sum())
        with_cost = ~np.isnan(cost)
        costs = np.where(with_cost, cost, 0.0)
        tally.counts[Count.COSTS] = int(sign[with_cost].sum())
        error = value - outcome
        loss = np.array(_log_losses(value.tolist(), outcome.tolist()) if target.binary else [0.0] * value.size)
        moments = (outcome, outcome * outcome, value, value * value, value * outcome)
        terms = (*moments, np.abs(error), error * error, loss, costs, costs * costs)
        signs = sign.astype(np.float64)
        tally.outcome_sums[: len(terms)] = [exact_sum(term * signs) for term in terms]
        if target.binary:
            tally.count_labels(sign, value >= THRESHOLD, outcome == 1.0)
        if target.low is not None and target.high is not None:
            width = target.high - target.low
            said, was = (np.clip((column - target.low) / width, 0.0, 1.0) for column in (value, outcome))
            tally.calibrate(sign, said, was)
        return tally

    @classmethod
    def of_rankings(cls, sign: NDArray[np.int64], ndcg: NDArray[np.float64]) -> Tally:
        """Counts rankings by their NDCG, each added or taken away by its sign."""
        tally = cls()
        tally.counts[Count.RANKINGS] = int(sign.sum())
        tally.outcome_sums[OutcomeSum.NDCG] = exact_sum(ndcg * sign)
        tally.outcome_sums[OutcomeSum.NDCG_SQUARED] = exact_sum(ndcg * ndcg * sign)
        return tally

    def count_labels(self, sign: NDArray[np.int64], said: NDArray[np.bool_], was: NDArray[np.bool_]) -> None:
        """Counts predicted labels by what they turned out to be."""
        for place, chosen in (
            (Count.TRUE_POSITIVES, said & was),
            (Count.FALSE_POSITIVES, said & ~was),
            (Count.TRUE_NEGATIVES, ~said & ~was),
            (Count.FALSE_NEGATIVES, ~said & was),
        ):
            self.counts[place] += int(sign[chosen].sum())

    def calibrate(self, sign: NDArray[np.int64], said: NDArray[np.float64], was: NDArray[np.float64]) -> None:
        """Fills the calibration table; both columns are fractions of the target's range."""
        places = _places(said)
        for row, column in (
            (Calibration.COUNT, sign),
            (Calibration.PREDICTION, sign * _fixed(said)),
            (Calibration.OUTCOME, sign * _fixed(was)),
        ):
            np.add.at(self.calibration[row], places, column)


def _places(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Gives the bin of each fraction of the target's range."""
    return np.minimum((shares * BINS).astype(np.int64), BINS - 1)


def _fixed(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(shares * FIXED_POINT).astype(np.int64)


def _log_losses(values: Sequence[float], outcomes: Sequence[float]) -> list[float]:
    """Gives −log of each outcome's probability; with `math`, whose result does not depend on the neighbours."""
    return [
        -math.log(min(max(v, _CLIP), 1 - _CLIP)) if y == 1.0 else -math.log1p(-min(max(v, _CLIP), 1 - _CLIP))
        for v, y in zip(values, outcomes, strict=True)
    ]
