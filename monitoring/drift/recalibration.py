"""What a model's probabilities really mean, learnt from labelled decisions, with a band of doubt."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.special import expit, logit

from monitoring.drift.control import Floats

GRID: Final = 240
"""Cells of log odds that the labelled decisions are counted in."""
_FAR: Final = 12.0
_KNOTS: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
_RIDGE: Final = (1.0, 1.0, *(4.0 for _ in _KNOTS))
_STEPS: Final = 50
_WIDTH: Final = 2.5
"""Half-width of the band in standard errors."""


def log_odds(probabilities: Floats) -> Floats:
    """Gives the log odds of probabilities, cut off at ±12."""
    return np.asarray(np.clip(logit(np.clip(probabilities, 1e-9, 1 - 1e-9)), -_FAR, _FAR))


def tallied(probabilities: Floats, outcomes: Floats) -> Floats:
    """Counts labelled decisions by cell of log odds: number, sum of log odds, sum of outcomes, [GRID, 3]."""
    odds = log_odds(probabilities)
    cells = np.minimum(((odds + _FAR) * (GRID / (2 * _FAR))).astype(np.int64), GRID - 1)
    return np.stack([np.bincount(cells, weights=w, minlength=GRID) for w in (np.ones_like(odds), odds, outcomes)], 1)


class Recalibration:
    """A smooth map from the predicted to the observed frequency: log odds as a linear spline of log odds."""

    def __init__(self, tally: Floats) -> None:
        """Fits the map to a tally [GRID, 3] by penalised logistic regression (Newton's method).

        The penalty pulls towards "the probabilities are right", so that few or one-sided labels do no harm.
        """
        used = tally[tally[:, 0] > 0]
        count = used[:, 0]
        odds = used[:, 1] / count
        self._knots = np.interp(_KNOTS, np.cumsum(count) / count.sum(), odds)
        design = self._design(odds)
        prior = np.zeros(design.shape[1])
        prior[1] = 1.0
        penalty = np.diag(_RIDGE)
        self._weights = prior.copy()
        hessian = penalty
        for _ in range(_STEPS):
            fitted = expit(design @ self._weights)
            hessian = (design * (count * fitted * (1 - fitted))[:, None]).T @ design + penalty
            slope = design.T @ (used[:, 2] - count * fitted) - penalty @ (self._weights - prior)
            step = np.linalg.solve(hessian, slope)
            # A damped step keeps Newton's method from leaping where labels separate.
            self._weights = self._weights + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
            if float(np.abs(step).max()) < 1e-8:
                break
        self.covariance = np.linalg.inv(hessian)
        """Of the map's weights, [weights, weights]."""

    def band(self, probabilities: Floats) -> tuple[Floats, Floats, Floats]:
        """Gives (lower, middle, upper) of the frequency that the reference makes us expect, each [n]."""
        design = self._design(log_odds(probabilities))
        middle = design @ self._weights
        doubt = _WIDTH * np.sqrt(np.einsum("ij,jk,ik->i", design, self.covariance, design))
        return expit(middle - doubt), expit(middle), expit(middle + doubt)

    def slopes(self, probabilities: Floats) -> Floats:
        """Gives the slope of the expected frequency in each weight of the map, [n, weights]; see `covariance`."""
        design = self._design(log_odds(probabilities))
        middle = expit(design @ self._weights)
        return np.asarray(design * (middle * (1 - middle))[:, None])

    def _design(self, odds: Floats) -> Floats:
        return np.column_stack((np.ones_like(odds), odds, *(np.maximum(odds - knot, 0.0) for knot in self._knots)))
