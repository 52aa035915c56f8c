"""What a model's probabilities really mean, learnt from labelled decisions, with a band of doubt."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.special import expit, logit

from monitoring.drift.control import Floats

KNOTS: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
TERMS: Final = 2 + len(KNOTS)
_FAR: Final = 12.0
_RIDGE: Final = 1.0
_STEPS: Final = 30
_WIDTH: Final = 3.0
"""Half-width of the band in standard errors."""


def log_odds(probabilities: Floats) -> Floats:
    """Gives the log odds of probabilities, cut off at ±12."""
    return np.asarray(np.clip(logit(np.clip(probabilities, 1e-9, 1 - 1e-9)), -_FAR, _FAR))


class Recalibration:
    """A smooth map from the predicted to the observed frequency: log odds as a linear spline of log odds.

    `weights` [TERMS], `covariance` [TERMS, TERMS] (of the penalised fit) and `knots` [len(KNOTS)].
    """

    def __init__(self, weights: Floats, covariance: Floats, knots: Floats) -> None:
        self.weights = weights
        self.covariance = covariance
        self.knots = knots

    @staticmethod
    def learn(probabilities: Floats, labels: Floats) -> Recalibration:
        """Fits the map to labelled decisions, both [n], by penalised logistic regression (Newton's method).

        The penalty pulls towards "the probabilities are right", so that few or one-sided labels do no harm.
        """
        odds = log_odds(probabilities)
        knots = np.quantile(odds, KNOTS)
        design = _design(odds, knots)
        prior = np.zeros(TERMS)
        prior[1] = 1.0
        weights = prior.copy()
        penalty = _RIDGE * np.eye(TERMS)
        hessian = penalty
        for _ in range(_STEPS):
            fitted = expit(design @ weights)
            hessian = (design * (fitted * (1 - fitted))[:, None]).T @ design + penalty
            step = np.linalg.solve(hessian, design.T @ (labels - fitted) - penalty @ (weights - prior))
            # A damped step keeps Newton's method from leaping where labels separate.
            weights = weights + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
            if float(np.abs(step).max()) < 1e-8:
                break
        return Recalibration(weights, np.linalg.inv(hessian), knots)

    def band(self, probabilities: Floats) -> tuple[Floats, Floats, Floats]:
        """Gives (lower, middle, upper) of the frequency that the reference makes us expect, each [n]."""
        design = _design(log_odds(probabilities), self.knots)
        middle = design @ self.weights
        doubt = _WIDTH * np.sqrt(np.einsum("ij,jk,ik->i", design, self.covariance, design))
        return expit(middle - doubt), expit(middle), expit(middle + doubt)


def _design(odds: Floats, knots: Floats) -> Floats:
    return np.column_stack((np.ones_like(odds), odds, *(np.maximum(odds - knot, 0.0) for knot in knots)))
