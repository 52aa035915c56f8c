"""Where to cut probabilities into yes and no: the trade between precision and recall, and a recommendation.

The cut must come from rows that the model neither learned from nor is judged by: use the calibration part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from sklearn.metrics import precision_recall_curve

from services.training.dataset import Vector
from services.training.evaluation import NOT_ENOUGH


@dataclass(frozen=True, slots=True)
class BestF1:
    """Precision and recall count alike: the highest harmonic mean."""


@dataclass(frozen=True, slots=True)
class RecallAtLeast:
    """Find at least this share of the successes, and with that be right as often as possible."""

    recall: float


@dataclass(frozen=True, slots=True)
class PrecisionAtLeast:
    """Be right at least this often, and with that find as many successes as possible."""

    precision: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Both errors have a price, in any common unit; the cheapest cut of calibrated probabilities follows from it."""

    false_yes: float
    false_no: float


Goal = BestF1 | RecallAtLeast | PrecisionAtLeast | Costs


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A threshold with what it would have given, and one sentence why; all None when nothing can be said."""

    threshold: float | None
    precision: float | None
    recall: float | None
    why: str


def recommend(probabilities: Vector, outcomes: Vector, goal: Goal) -> Recommendation:
    """Recommends the threshold (yes from it on) that serves `goal` best on these rows."""
    if len(outcomes) == 0 or float(outcomes.sum()) in {0.0, float(len(outcomes))}:
        return Recommendation(None, None, None, f"{NOT_ENOUGH}: both outcomes must have happened")
    precision, recall, thresholds = precision_recall_curve(outcomes, probabilities)
    # The curve ends in a point (1, 0) that belongs to no threshold.
    precision, recall = precision[:-1], recall[:-1]
    match goal:
        case BestF1():
            f1 = 2.0 * precision * recall / np.maximum(precision + recall, math.ulp(0.0))
            best, why = int(np.argmax(f1)), "it gives the highest F1"
        case RecallAtLeast(wanted):
            allowed = np.where(recall >= wanted, precision, -1.0)
            best, why = int(np.argmax(allowed)), f"of all cuts with a recall of {wanted:g} it is the most precise"
        case PrecisionAtLeast(wanted):
            allowed = np.where(precision >= wanted, recall, -1.0)
            best = int(np.argmax(allowed))
            if allowed[best] < 0.0:
                reached = float(precision.max())
                return Recommendation(
                    None, None, None, f"no cut is right {wanted:g} of the time; {reached:.3f} is the most"
                )
            why = f"of all cuts that are right {wanted:g} of the time it finds the most"
        case Costs(false_yes, false_no):
            return _cheapest(probabilities, outcomes, false_yes, false_no)
        case _ as never:
            assert_never(never)
    return Recommendation(float(thresholds[best]), float(precision[best]), float(recall[best]), why)


def _cheapest(probabilities: Vector, outcomes: Vector, false_yes: float, false_no: float) -> Recommendation:
    """Says yes when (1 - p) × false_yes < p × false_no (C. Elkan, "Foundations of cost-sensitive learning", 2001)."""
    threshold = false_yes / (false_yes + false_no)
    yes = probabilities >= threshold
    hits = float(outcomes[yes].sum())
    precision = hits / float(yes.sum()) if yes.any() else None
    return Recommendation(threshold, precision, hits / float(outcomes.sum()), "it is the cheapest cut at these costs")
