"""Platt's calibration: makes a model's probabilities mean what they say, from rows that it was not trained on.

p' = sigmoid(slope × logit(p) + offset), fitted by maximum likelihood with Platt's smoothed targets (J. Platt,
"Probabilistic outputs for support vector machines", 1999). Two numbers cannot overfit a small calibration set, and in
a served graph they fold into the leaves of a boosted model. Isotonic regression was measured and is not steadily
better (docs/data-sf-fire-calls.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from services.training.dataset import Vector

CLIP: Final = 1e-4
"""Probabilities of a forest are kept this far from 0 and 1 before their logit is taken."""
FEWEST_OF_EACH: Final = 10
_STEPS: Final = 50
_RIDGE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Calibration:
    """Slope and offset over the logit."""

    slope: float
    offset: float

    def apply(self, probabilities: Vector) -> Vector:
        """Gives the calibrated probabilities."""
        return sigmoid(self.slope * logit(probabilities) + self.offset)


IDENTITY: Final = Calibration(1.0, 0.0)


def logit(probabilities: Vector, clip: float = CLIP) -> Vector:
    """Gives log(p / (1 - p)) of p kept within [clip, 1 - clip]."""
    kept = np.clip(probabilities, clip, 1.0 - clip)
    return np.log(kept) - np.log1p(-kept)


def sigmoid(margins: Vector) -> Vector:
    """Gives 1 / (1 + exp(-m)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -margins))


def choose(probabilities: Vector, outcomes: Vector) -> Calibration:
    """Fits to rows in order of time, but only if what the older half says makes the newer half's answers better.

    Otherwise the identity: where the world drifts, yesterday's correction can be today's error.
    """
    half = len(outcomes) // 2
    newer, truth = probabilities[half:], outcomes[half:]
    trial = fit(probabilities[:half], outcomes[:half]).apply(newer)
    helps = _loss(logit(trial), truth) < _loss(logit(newer), truth)
    return fit(probabilities, outcomes) if helps else IDENTITY


def fit(probabilities: Vector, outcomes: Vector) -> Calibration:
    """Fits slope and offset; the identity with fewer than 10 rows of a class, or when a larger p means a rarer success.

    The slope must be positive: a calibration never turns a model's order around.
    """
    positives = float(outcomes.sum())
    negatives = len(outcomes) - positives
    if min(positives, negatives) < FEWEST_OF_EACH:
        return IDENTITY
    target = np.where(outcomes > 0.5, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))
    inputs = np.column_stack([logit(probabilities), np.ones(len(outcomes))])
    weights = np.array([1.0, 0.0])
    loss = _loss(inputs @ weights, target)
    for _ in range(_STEPS):
        current = sigmoid(inputs @ weights)
        gradient = inputs.T @ (current - target)
        curvature = (inputs * (current * (1.0 - current))[:, None]).T @ inputs + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # Newton's step is halved until it helps; near the optimum the first one does.
        while np.abs(step).max() > 1e-10 and _loss(inputs @ (weights - step), target) > loss:
            step = step / 2.0
        weights = weights - step
        loss = _loss(inputs @ weights, target)
        if np.abs(step).max() <= 1e-10:
            break
    return Calibration(float(weights[0]), float(weights[1])) if weights[0] > 0.0 else IDENTITY


def _loss(margins: Vector, target: Vector) -> float:
    return float(np.sum(np.logaddexp(0.0, margins) - target * margins))
