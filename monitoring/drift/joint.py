"""Joint drift of all features: how they hang together, seen through a few projections of each row.

Two features may swap their correlation while each keeps its own distribution. The first rows of a stream fix a mean, a
spread and a covariance (shrunk); from then on a row is reduced to its Mahalanobis distance from the reference's centre
and to a few projections of the whitened row in directions drawn from the seed. These are watched like any column: a
constant number of them, whatever the number of features.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitoring.drift import state
from monitoring.drift.binning import Kind
from monitoring.drift.control import Floats
from monitoring.drift.distributions import DistributionMonitor, DistributionSettings
from monitoring.drift.results import DriftResult
from services.runtime.errors import InvalidArgument

PROJECTIONS: Final = 8
_SHRINKAGE: Final = 0.1
_FAR: Final = 8.0
_NAMES: Final = ("mahalanobis_distance", *(f"projection_{i + 1}" for i in range(PROJECTIONS)))


class JointMonitor:
    """Watches rows of `features` columns jointly. The first fifth of the reference fixes the projections."""

    def __init__(self, features: int, settings: DistributionSettings) -> None:
        self.features = features
        self._fit = settings.reference // 5
        self._first: NDArray[np.float32] = np.empty((0, features), np.float32)
        self._centre: Floats = np.empty((0, features))
        """Mean and spread [2, features] once they are known."""
        self._projection: Floats = np.empty((0, features))
        """Whitening [features, features] and directions [PROJECTIONS, features], one above the other."""
        self.columns = DistributionMonitor(_NAMES, (Kind.NUMBER,) * len(_NAMES), settings)

    def update(self, rows: NDArray[np.float32]) -> None:
        """Takes decisions in their order, float32 [n, features], NaN for missing (taken as the mean)."""
        if rows.ndim != 2 or rows.shape[1] != self.features:
            raise InvalidArgument("rows", f"rows have {self.features} columns, not the shape {rows.shape}")
        if not len(self._centre):
            part, rows = rows[: self._fit - len(self._first)], rows[self._fit - len(self._first) :]
            self._first = np.concatenate((self._first, part.astype(np.float32)))
            if len(self._first) < self._fit:
                return
            self._learn(self._first)
            self._first = self._first[:0].copy()
        if len(rows):
            self.columns.update(self._project(rows))

    def _learn(self, rows: NDArray[np.float32]) -> None:
        known = np.where(np.isfinite(rows), rows, np.nan).astype(np.float64)
        counts = np.maximum((~np.isnan(known)).sum(axis=0), 1)
        mean = np.nansum(known, axis=0) / counts
        spread = np.sqrt(np.nansum((known - mean) ** 2, axis=0) / counts)
        self._centre = np.stack((mean, np.where(spread > 0, spread, 1.0)))
        scaled = self._scaled(rows)
        covariance = scaled.T @ scaled / len(scaled)
        covariance += _SHRINKAGE * np.eye(self.features)
        values, vectors = np.linalg.eigh(covariance)
        whitening = (vectors / np.sqrt(np.maximum(values, _SHRINKAGE))) @ vectors.T
        chance = np.random.Generator(np.random.Philox(key=self.columns.settings.seed))
        directions = chance.standard_normal((PROJECTIONS, self.features))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self._projection = np.concatenate((whitening, directions @ whitening))

    def _scaled(self, rows: NDArray[np.float32]) -> Floats:
        scaled = (rows.astype(np.float64) - self._centre[0]) / self._centre[1]
        return np.clip(np.nan_to_num(scaled, nan=0.0), -_FAR, _FAR)

    def _project(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        projected = self._scaled(rows) @ self._projection.T
        white = projected[:, : self.features]
        distance = np.sqrt(np.einsum("ij,ij->i", white, white))
        return np.column_stack((distance, projected[:, self.features :])).astype(np.float32)

    def results(self) -> tuple[DriftResult, ...]:
        """Gives one result for each projection."""
        return self.columns.results()

    def to_bytes(self) -> bytes:
        """Gives the whole state."""
        columns = np.frombuffer(self.columns.to_bytes(), np.uint8)
        arrays = {
            "first": self._first,
            "centre": self._centre,
            "projection": self._projection,
            "columns": columns,
        }
        return state.pack("joint", {"features": self.features}, arrays)

    @staticmethod
    def from_bytes(data: bytes) -> JointMonitor:
        """Restores a monitor from `to_bytes`.

        Raises:
            InvalidArgument: the bytes are not such a state.
        """
        fields, arrays = state.unpack("joint", data)
        with state.checked("joint"):
            columns = DistributionMonitor.from_bytes(arrays["columns"].tobytes())
            monitor = JointMonitor(int(fields["features"]), columns.settings)
            monitor.columns = columns
            monitor._first, monitor._centre = arrays["first"], arrays["centre"]
            monitor._projection = arrays["projection"]
        return monitor
