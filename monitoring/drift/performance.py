"""Online monitor of performance: are the answers worse than they were at first? Valid at every look.

The first labelled decisions give a baseline, with a bound on its own error; the means of the losses after them are held
against baseline + margin by the betting test of `rates`. A loss of performance has many causes: a shift of the inputs
towards harder cases raises this and not concept drift.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bentos.thresholds import Thresholds
from monitoring.drift import state
from monitoring.drift.control import Floats
from monitoring.drift.quality import upper_rate
from monitoring.drift.rates import RateMonitor, RateSettings
from monitoring.drift.results import Aspect, DriftResult
from services.runtime.errors import InvalidArgument

_SURE: Final = 3.7
"""Standard errors that a mean's upper bound lies above it: one in ten thousand is beyond."""
_SCALE: Final = 4.0


class PerformanceMonitor:
    """Watches labelled predictions: error rate and Brier score of probabilities, absolute error of numbers."""

    def __init__(self, thresholds: Thresholds, alpha: float, *, probabilities: bool) -> None:
        self.thresholds = thresholds
        self.alpha = alpha
        self.probabilities = probabilities
        self._sums: Floats = np.zeros((3, 2))
        """Reference: number, sum and sum of squares of each loss."""
        self._scale = 1.0
        self._fitted = np.zeros(2)
        """First fifth of a reference of numbers: number and sum of absolute errors."""
        self._rates: RateMonitor | None = None

    def update(self, predictions: NDArray[np.floating], outcomes: NDArray[np.floating]) -> None:
        """Takes labelled decisions, both [n]: probabilities and 0 or 1, or two numbers.

        Raises:
            InvalidArgument: their numbers differ or one is not finite.
        """
        if predictions.shape != outcomes.shape or predictions.ndim != 1:
            raise InvalidArgument("outcomes", "there is one outcome for each prediction")
        if not (np.isfinite(predictions).all() and np.isfinite(outcomes).all()):
            raise InvalidArgument("predictions", "predictions and outcomes are finite numbers")
        if not self.probabilities:
            wanted = max(0, self.thresholds.reference_decisions // 5 - int(self._fitted[0]))
            errors = np.abs(predictions[:wanted] - outcomes[:wanted])
            self._fitted += (len(errors), errors.sum())
            self._scale = max(_SCALE * float(self._fitted[1]) / max(float(self._fitted[0]), 1.0), 1e-12)
            predictions, outcomes = predictions[wanted:], outcomes[wanted:]
        losses = self._losses(predictions.astype(np.float64), outcomes.astype(np.float64))
        if self._rates is None:
            part = losses[: self.thresholds.reference_decisions - int(self._sums[0, 0])]
            self._sums += np.stack((np.full(2, len(part)), part.sum(axis=0), (part**2).sum(axis=0)))
            losses = losses[len(part) :]
            if self._sums[0, 0] < self.thresholds.reference_decisions:
                return
            self._rates = self._begin()
        if len(losses):
            self._rates.update(losses if self.probabilities else losses[:, 1:])

    def _losses(self, predictions: Floats, outcomes: Floats) -> Floats:
        if self.probabilities:
            return np.column_stack(((predictions >= 0.5) != (outcomes == 1), (predictions - outcomes) ** 2))
        scaled = np.minimum(np.abs(predictions - outcomes) / self._scale, 1.0)
        return np.column_stack((np.zeros_like(scaled), scaled))

    def _begin(self) -> RateMonitor:
        count, total, squares = self._sums
        mean = total / count
        worst = mean + _SURE * np.sqrt(np.maximum(squares / count - mean**2, 0.0) / count)
        errors = float(upper_rate(total[:1], float(count[0]))[0])
        settings = RateSettings(
            aspect=Aspect.PERFORMANCE,
            alpha=self.alpha,
            minimum=self.thresholds.minimum_decisions,
            before=int(count[0] + self._fitted[0]),
        )
        loss = min(float(worst[1]) + self.thresholds.brier_rise, 0.99)
        if not self.probabilities:
            return RateMonitor(["absolute error (scaled)"], [loss], settings)
        limit = errors + self.thresholds.accuracy_drop
        if self.thresholds.accuracy is not None:
            limit = max(limit, 1 - self.thresholds.accuracy)
        return RateMonitor(["error rate", "Brier score"], [min(limit, 0.99), loss], settings)

    def results(self) -> tuple[DriftResult, ...]:
        """Gives a result for each loss; nothing before the reference is complete."""
        return () if self._rates is None else self._rates.results()

    @property
    def baseline(self) -> tuple[float, float]:
        """Mean losses of the reference: error rate and Brier score, or 0 and scaled absolute error; NaN at first."""
        count = self._sums[0, 0]
        return (math.nan, math.nan) if not count else tuple((self._sums[1] / count).tolist())

    def to_bytes(self) -> bytes:
        """Gives the state; the thresholds are the family's and are not part of it."""
        arrays = {
            "sums": self._sums,
            "fitted": self._fitted,
            "rates": np.frombuffer(self._rates.to_bytes() if self._rates else b"", np.uint8),
        }
        return state.pack("performance", {"scale": self._scale}, arrays)

    def restore(self, data: bytes) -> None:
        """Takes over a state from `to_bytes` of a monitor of the same kind.

        Raises:
            InvalidArgument: the bytes are not such a state.
        """
        fields, arrays = state.unpack("performance", data)
        with state.checked("performance"):
            self._scale = float(fields["scale"])
            self._sums = state.shaped(arrays["sums"], self._sums)
            self._fitted = state.shaped(arrays["fitted"], self._fitted)
            rates = arrays["rates"].tobytes()
            self._rates = RateMonitor.from_bytes(rates) if rates else None
