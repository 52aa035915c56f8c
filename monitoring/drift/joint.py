"""Joint drift of all features: how they hang together, in constant memory. Valid at every look.

Two features may change their correlation while each keeps its own distribution, and no fixed set of projections finds
that among a hundred features. So the directions are learnt from the stream: it is cut into stretches, and each stretch
is looked at along the directions in which the stretch before it differed most from the reference (mean, largest and
smallest variance after whitening), and by its Mahalanobis distance. A bounded sample of the reference is projected onto
the same directions, and a `DistributionMonitor` compares. The directions do not depend on what is tested along them.

Stretch number k may use alpha / (k (k + 1)), so that all stretches together keep alpha.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitoring.drift import state
from monitoring.drift.binning import Kind
from monitoring.drift.control import Floats, spent
from monitoring.drift.distributions import DistributionMonitor, DistributionSettings
from monitoring.drift.results import Aspect, DriftResult, Verdict
from services.runtime.errors import InvalidArgument

SAMPLE: Final = 2_000
"""Rows of the reference that are kept at most."""
STRETCH: Final = 1_000
"""Decisions along the same directions."""
_SHRINKAGE: Final = 0.1
_FAR: Final = 8.0
_NAMES: Final = ("distance", "mean", "largest_variance", "smallest_variance")


class JointMonitor:
    """Watches rows of `features` columns jointly. Half of the reference fixes the whitening, half is compared with."""

    def __init__(self, features: int, settings: DistributionSettings) -> None:
        self.features = features
        self.settings = settings
        self._wanted = min(settings.reference // 2, SAMPLE)
        self._sample: NDArray[np.float32] = np.empty((0, features), np.float32)
        """First the rows that fix the whitening, then those that are compared with, whitened."""
        self._whitening: Floats = np.empty((0, features))
        """Mean, spread, and the whitening matrix, [2 + features, features] once they are known."""
        self._directions: Floats = np.zeros((3, features))
        self._moments: Floats = np.zeros((1 + features, features))
        """Sum of the stretch's whitened rows, and of their outer products."""
        self._stretch = 0
        self._columns: DistributionMonitor | None = None
        self._before: DistributionMonitor | None = None
        """The stretch before, when it found a drift."""
        self._raised_at = np.full(1, np.nan)
        self.decisions = 0

    def update(self, rows: NDArray[np.float32]) -> None:
        """Takes decisions in their order, float32 [n, features], NaN for missing (taken as the mean)."""
        if rows.ndim != 2 or rows.shape[1] != self.features:
            raise InvalidArgument("rows", f"rows have {self.features} columns, not the shape {rows.shape}")
        rows = np.asarray(rows, np.float32)
        while len(rows):
            taken = self._take(rows)
            rows = rows[taken:]
            self.decisions += taken

    def _take(self, rows: NDArray[np.float32]) -> int:
        """Takes as many rows as the present phase wants; gives how many."""
        if self._columns is None:
            part = rows[: self._wanted - len(self._sample)]
            whitened = part if not len(self._whitening) else self._whiten(part).astype(np.float32)
            self._sample = np.concatenate((self._sample, whitened))
            if len(self._sample) == self._wanted:
                self._next_phase()
            return len(part)
        done = self._columns.decisions - self._wanted
        part = rows[: STRETCH - done]
        white = self._whiten(part)
        self._columns.update(self._project(white))
        self._moments[0] += white.sum(axis=0)
        self._moments[1:] += white.T @ white
        if done + len(part) == STRETCH:
            self._before = self._columns if _found(self._columns) else None
            if self._before is None:
                self._raised_at[:] = np.nan
            elif np.isnan(self._raised_at[0]):
                self._raised_at[:] = self.results()[0].raised_at
            self._begin(_directions(self._moments / STRETCH))
        return len(part)

    def _next_phase(self) -> None:
        if not len(self._whitening):
            self._whitening = _whitening(self._sample)
            self._sample = self._sample[:0].copy()
        else:
            chance = np.random.Generator(np.random.Philox(key=self.settings.seed))
            directions = chance.standard_normal((3, self.features))
            self._begin(directions / np.linalg.norm(directions, axis=1, keepdims=True))

    def _begin(self, directions: Floats) -> None:
        """Begins a stretch: the reference's sample first, along its directions."""
        self._stretch += 1
        self._directions = directions
        self._moments[:] = 0.0
        seed = self.settings.seed + self._stretch
        alpha = spent(self.settings.alpha, self._stretch)
        settings = dataclasses.replace(self.settings, reference=self._wanted, alpha=alpha, seed=seed)
        self._columns = DistributionMonitor(_NAMES, (Kind.NUMBER,) * len(_NAMES), settings)
        self._columns.update(self._project(self._sample))

    def _whiten(self, rows: NDArray[np.float32]) -> Floats:
        return _scaled(rows, self._whitening[:2]) @ self._whitening[2:]

    def _project(self, white: NDArray[np.floating]) -> NDArray[np.float32]:
        distance = np.sqrt(np.einsum("ij,ij->i", white, white))
        return np.column_stack((distance, white @ self._directions.T)).astype(np.float32)

    def results(self) -> tuple[DriftResult, ...]:
        """Gives the one result: that of the column with the smallest p-value; it holds at every look."""
        chosen = self._columns
        # From decisions as the stretch's monitor counts them to those of the run.
        offset = self._wanted + (self._stretch - 1) * STRETCH
        if self._before is not None and chosen is not None and chosen.decisions - self._wanted < STRETCH // 2:
            # Until the young stretch has seen enough, the drift that the one before found stands.
            chosen = self._before
            offset -= STRETCH
        settings = self.settings
        monitor = chosen or DistributionMonitor(_NAMES, (Kind.NUMBER,) * len(_NAMES), settings)
        worst = min(monitor.results(), key=lambda result: result.p_value)
        p_value = min(1.0, worst.p_value * settings.alpha / monitor.settings.alpha)
        where = worst.subject.replace("_", " ")
        details = {
            Verdict.DRIFT: f"the features no longer hang together as in the reference: {where} of the whitened rows",
            Verdict.OK: "the features hang together as in the reference",
            Verdict.NOT_ENOUGH_DATA: "more decisions after the reference are needed",
        }
        verdict = worst.verdict
        if verdict is Verdict.NOT_ENOUGH_DATA and self._stretch > 1:
            verdict = Verdict.OK
        raised = None if worst.raised_at is None else worst.raised_at + offset
        if raised is not None and not np.isnan(self._raised_at[0]):
            raised = float(self._raised_at[0])
        start = max(0, self.decisions - worst.current.decisions)
        return (
            dataclasses.replace(
                worst,
                aspect=Aspect.JOINT,
                subject="all features",
                test="conformal e-process along learnt directions, alpha spent over stretches",
                measure=f"Kolmogorov-Smirnov distance of {where}",
                p_value=p_value,
                false_alarm_rate=settings.alpha,
                verdict=verdict,
                detail=details[verdict],
                current=dataclasses.replace(worst.current, start=start, end=self.decisions),
                raised_at=raised,
            ),
        )

    def to_bytes(self) -> bytes:
        """Gives the whole state; its size does not depend on the number of decisions."""
        settings = dataclasses.asdict(self.settings) | {"aspect": self.settings.aspect.value}
        fields = {
            "features": self.features,
            "settings": settings,
            "counts": [self.decisions, self._stretch],
        }
        arrays = {
            "sample": self._sample,
            "whitening": self._whitening,
            "directions": self._directions,
            "moments": self._moments,
            "columns": _bytes(self._columns),
            "before": _bytes(self._before),
            "raised_at": self._raised_at,
        }
        return state.pack("joint", fields, arrays)

    @staticmethod
    def from_bytes(data: bytes) -> JointMonitor:
        """Restores a monitor from `to_bytes`.

        Raises:
            InvalidArgument: the bytes are not such a state.
        """
        fields, arrays = state.unpack("joint", data)
        with state.checked("joint"):
            settings = fields["settings"] | {"aspect": Aspect(fields["settings"]["aspect"])}
            monitor = JointMonitor(int(fields["features"]), DistributionSettings(**settings))
            monitor.decisions, monitor._stretch = fields["counts"]
            monitor._sample, monitor._whitening = arrays["sample"], arrays["whitening"]
            monitor._directions = state.shaped(arrays["directions"], monitor._directions)
            monitor._moments = state.shaped(arrays["moments"], monitor._moments)
            monitor._raised_at = state.shaped(arrays["raised_at"], monitor._raised_at)
            monitor._columns = _monitor(arrays["columns"].tobytes())
            monitor._before = _monitor(arrays["before"].tobytes())
        return monitor


def _found(monitor: DistributionMonitor) -> bool:
    return any(result.verdict is Verdict.DRIFT for result in monitor.results())


def _bytes(monitor: DistributionMonitor | None) -> NDArray[np.uint8]:
    return np.frombuffer(monitor.to_bytes() if monitor else b"", np.uint8)


def _monitor(data: bytes) -> DistributionMonitor | None:
    return DistributionMonitor.from_bytes(data) if data else None


def _whitening(rows: NDArray[np.float32]) -> Floats:
    known = np.where(np.isfinite(rows), rows, np.nan).astype(np.float64)
    counts = np.maximum((~np.isnan(known)).sum(axis=0), 1)
    mean = np.nansum(known, axis=0) / counts
    spread = np.sqrt(np.nansum((known - mean) ** 2, axis=0) / counts)
    centre = np.stack((mean, np.where(spread > 0, spread, 1.0)))
    scaled = _scaled(rows, centre)
    values, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled) + _SHRINKAGE * np.eye(rows.shape[1]))
    return np.concatenate((centre, (vectors / np.sqrt(values)) @ vectors.T))


def _scaled(rows: NDArray[np.float32], centre: Floats) -> Floats:
    # A value far out must not decide alone where a row lies.
    return np.asarray(np.clip(np.nan_to_num((rows - centre[0]) / centre[1], nan=0.0), -_FAR, _FAR))


def _directions(moments: Floats) -> Floats:
    """Gives unit vectors [3, features]: of the mean, the largest and the smallest variance."""
    mean = moments[0]
    _, vectors = np.linalg.eigh(moments[1:] - np.outer(mean, mean))
    length = float(np.linalg.norm(mean))
    return np.stack((mean / length if length else vectors[:, 0], vectors[:, -1], vectors[:, 0]))
