"""How good answers are: metrics on rows that were held out, beside the rules and beside always saying the same.

What cannot be measured is None, and `note` says why: an AUC of rows that all ended alike would be a made-up number.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from sklearn import metrics

from services.training.dataset import Matrix, Vector

NOT_ENOUGH: Final = "not enough data"
_BINS: Final = 10
_NEVER_ZERO: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of the reliability curve: rows with a probability in [low, high), their mean and what really happened."""

    low: float
    high: float
    rows: int
    mean_probability: float | None
    observed: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """Quality of probabilities; the four label metrics hold at `threshold`."""

    rows: int
    positives: int
    threshold: float
    accuracy: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    auc: float | None
    log_loss: float | None
    brier: float | None
    calibration_error: float | None
    """Mean distance of the reliability curve from the diagonal, weighted by rows."""
    reliability: tuple[Bin, ...]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Numeric:
    """Quality of predicted numbers, in the target's unit."""

    rows: int
    mean_absolute_error: float | None
    root_mean_squared_error: float | None
    r_squared: float | None
    note: str


Quality = Binary | Numeric


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A variant's quality on the newest part of the data, and that of the two answers it has to beat.

    `constant` always gives what was most usual in training: the share of successes, or the median number.
    """

    variant: Quality
    rules: Quality
    constant: Quality
    onnx_difference: float
    """Largest distance between the native model's answers and those of the exported graph."""
    importance: dict[str, float | None]
    """Rise of the log loss (of the absolute error for a number) when a raw feature is shuffled among the rows."""

    def as_dict(self) -> dict[str, Any]:
        """Gives plain values for the manifest, the variant's own metrics on top."""
        form = asdict(self)
        return {**form.pop("variant"), **form}


def binary(probabilities: Vector, outcomes: Vector, *, threshold: float = 0.5) -> Binary:
    """Measures probabilities [n] against outcomes [n] of 0 or 1."""
    positives = int(outcomes.sum())
    if positives in {0, len(outcomes)}:
        which = "there are no rows" if not len(outcomes) else "all rows ended alike"
        return Binary(
            rows=len(outcomes),
            positives=positives,
            threshold=threshold,
            accuracy=float(np.mean((probabilities >= threshold) == (outcomes > 0.5))) if len(outcomes) else None,
            precision=None,
            recall=None,
            f1=None,
            auc=None,
            log_loss=None,
            brier=None,
            calibration_error=None,
            reliability=(),
            note=f"{NOT_ENOUGH}: {which}",
        )
    labels = probabilities >= threshold
    curve = reliability(probabilities, outcomes)
    gaps = [
        b.rows * abs(b.mean_probability - b.observed)
        for b in curve
        if b.mean_probability is not None and b.observed is not None
    ]
    return Binary(
        rows=len(outcomes),
        positives=positives,
        threshold=threshold,
        accuracy=float(metrics.accuracy_score(outcomes, labels)),
        precision=float(metrics.precision_score(outcomes, labels)) if labels.any() else None,
        recall=float(metrics.recall_score(outcomes, labels)),
        f1=float(metrics.f1_score(outcomes, labels)),
        auc=float(metrics.roc_auc_score(outcomes, probabilities)),
        log_loss=log_loss(probabilities, outcomes),
        brier=float(np.mean((probabilities - outcomes) ** 2)),
        calibration_error=float(sum(gaps) / len(outcomes)),
        reliability=curve,
        note="" if labels.any() else "nothing reaches the threshold, so there is no precision",
    )


def log_loss(probabilities: Vector, outcomes: Vector) -> float:
    """Gives the mean negative log-likelihood; probabilities of 0 and 1 count as 1e-6 away from them."""
    kept = np.clip(probabilities, _NEVER_ZERO, 1.0 - _NEVER_ZERO)
    return float(-np.mean(outcomes * np.log(kept) + (1.0 - outcomes) * np.log1p(-kept)))


def reliability(probabilities: Vector, outcomes: Vector) -> tuple[Bin, ...]:
    """Gives the reliability curve in 10 bins of equal width; the last one includes 1."""
    place = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    bins = []
    for index in range(_BINS):
        inside = place == index
        rows = int(inside.sum())
        mean = float(probabilities[inside].mean()) if rows else None
        observed = float(outcomes[inside].mean()) if rows else None
        bins.append(Bin(index / _BINS, (index + 1) / _BINS, rows, mean, observed))
    return tuple(bins)


def numeric(values: Vector, outcomes: Vector) -> Numeric:
    """Measures numbers [n] against outcomes [n]."""
    if len(outcomes) < 2:
        note = f"{NOT_ENOUGH}: fewer than two rows"
        return Numeric(
            rows=len(outcomes), mean_absolute_error=None, root_mean_squared_error=None, r_squared=None, note=note
        )
    spread = float(np.var(outcomes))
    squared = float(np.mean((values - outcomes) ** 2))
    return Numeric(
        rows=len(outcomes),
        mean_absolute_error=float(np.mean(np.abs(values - outcomes))),
        root_mean_squared_error=squared**0.5,
        r_squared=1.0 - squared / spread if spread > 0.0 else None,
        note="" if spread > 0.0 else f"{NOT_ENOUGH}: all outcomes are equal, so there is no R²",
    )


def shuffled(features: Matrix, column: int, random: np.random.Generator) -> Matrix:
    """Gives the rows with one column's values dealt out anew."""
    mixed = features.copy()
    mixed[:, column] = random.permutation(mixed[:, column])
    return mixed
