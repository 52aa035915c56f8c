"""Online monitor of rates and mean losses: is the mean over its limit? Valid at every look.

The quantities lie in [0, 1]: a thing happened or not, a squared error of a probability. While the mean given the past
is at most the limit m, 1 + λ(x - m) with 0 <= λ < 1/m multiplies a stake fairly or worse, whatever the distribution
(Waudby-Smith and Ramdas 2024, betting); no independence is assumed. `Evidence` bets on a rise at any time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitoring.drift import state
from monitoring.drift.control import Floats, e_bh
from monitoring.drift.evidence import Evidence
from monitoring.drift.results import Aspect, DriftResult, Verdict, Window
from services.runtime.errors import InvalidArgument

BLOCK: Final = 64
RECENT: Final = 1_000
_SMALLEST: Final = 1e-15
"""Stands for a limit of 0: the first occurrence then settles it."""
_STEPS: Final = (0.02, 0.05, 0.1, 0.25, 0.5)
"""The bets: means that lie by these shares of the way between the limit and 1 above the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSettings:
    """What is watched, and how strictly."""

    aspect: Aspect
    alpha: float
    """False-alarm rate of all columns over the whole run."""
    minimum: int
    before: int = 0
    """Decisions of the reference that gave the limits, before the first one that is tested."""


class RateMonitor:
    """Watches the means of named columns of values in [0, 1] against a limit for each."""

    def __init__(self, names: Sequence[str], limits: Sequence[float], settings: RateSettings) -> None:
        """Starts with nothing seen.

        Raises:
            InvalidArgument: a limit is outside of [0, 1).
        """
        if not all(0.0 <= limit < 1.0 for limit in limits) or len(limits) != len(names):
            raise InvalidArgument("limits", "there is one limit in [0, 1) for each column")
        self.names = tuple(names)
        self.limits: Floats = np.array(limits, dtype=np.float64)
        self.settings = settings
        self._evidence = Evidence(len(names), len(_STEPS))
        self._recent: Floats = np.zeros((2, len(names), 2))
        """Two stretches of decisions: number known and sum, per column."""
        self._stretch: Floats = np.zeros(2)
        floor = np.maximum(self.limits, _SMALLEST)
        aims = floor[:, None] + (1 - floor[:, None]) * np.array(_STEPS)
        self._stakes = (aims / floor[:, None] - 1) / (1 - floor[:, None])
        self._floor = floor

    @property
    def decisions(self) -> int:
        """Decisions so far, those of the reference included."""
        return self.settings.before + self._evidence.decisions

    def update(self, values: NDArray[np.floating]) -> None:
        """Takes decisions in their order, [n, columns] in [0, 1]; NaN is not known and does not count.

        Raises:
            InvalidArgument: a value is out of range, or the number of columns is wrong.
        """
        if values.ndim != 2 or values.shape[1] != len(self.names):
            raise InvalidArgument("values", f"values have {len(self.names)} columns, not the shape {values.shape}")
        known = ~np.isnan(values)
        if np.any((values[known] < 0) | (values[known] > 1)):
            raise InvalidArgument("values", "values are from 0 to 1")
        for start in range(0, len(values), BLOCK):
            self._test(values[start : start + BLOCK].astype(np.float64), known[start : start + BLOCK])

    def _test(self, values: Floats, known: NDArray[np.bool_]) -> None:
        if np.all((values == 0) | (values == 1) | ~known):
            # Things that happen or not need only their number: the usual case, and much faster.
            hits = np.nansum(values, axis=0)[:, None]
            misses = known.sum(axis=0)[:, None] - hits
            logs = hits * np.log1p(self._stakes * (1 - self._floor[:, None]))
            logs += misses * np.log1p(-self._stakes * self._floor[:, None])
        else:
            growth = self._stakes[None] * (np.nan_to_num(values) - self._floor)[:, :, None]
            logs = np.where(known[:, :, None], np.log1p(growth), 0.0).sum(axis=0)
        n = len(values)
        self._evidence.add(logs, n)
        self._evidence.mark(self._log_p() <= math.log(self.settings.alpha), self.decisions)
        self._recent[1, :, 0] += known.sum(axis=0)
        self._recent[1, :, 1] += np.nansum(values, axis=0)
        self._stretch[1] += n
        if self._stretch[1] >= RECENT:
            self._recent = np.stack((self._recent[1], np.zeros_like(self._recent[1])))
            self._stretch = np.array([self._stretch[1], 0.0])

    def _log_p(self) -> Floats:
        return e_bh(self._evidence.log_e())

    def results(self) -> tuple[DriftResult, ...]:
        """Gives a result for each column: the recent mean is the effect; p-values hold at every look."""
        known, sums = self._recent[:, :, 0].sum(axis=0), self._recent[:, :, 1].sum(axis=0)
        span = int(self._stretch.sum())
        p_values = np.exp(self._log_p())
        return tuple(
            self._result(i, int(known[i]), float(sums[i]), span, float(p_values[i])) for i in range(len(known))
        )

    def _result(self, column: int, known: int, total: float, span: int, p_value: float) -> DriftResult:
        name, limit = self.names[column], float(self.limits[column])
        mean = total / known if known else 0.0
        if p_value <= self.settings.alpha:
            # Evidence outlasts its cause: it wanes only with as many decisions that speak against it.
            tense = "is" if mean > limit else "was"
            verdict, detail = Verdict.DRIFT, f"{name} {tense} over its limit {limit:.4g}; lately {mean:.4g}"
        elif known < self.settings.minimum:
            verdict, detail = Verdict.NOT_ENOUGH_DATA, f"{self.settings.minimum - known} more decisions are needed"
        else:
            verdict, detail = Verdict.OK, f"{name} is not shown to be over its limit {limit:.4g}; lately {mean:.4g}"
        raised = float(self._evidence.raised_at[column])
        return DriftResult(
            aspect=self.settings.aspect,
            subject=name,
            test="betting e-process, e-BH over columns",
            reference=Window(self.settings.before, 0, self.settings.before),
            current=Window(known, self.decisions - span, self.decisions),
            measure="mean",
            effect=mean,
            limit=limit,
            p_value=p_value,
            false_alarm_rate=self.settings.alpha,
            verdict=verdict,
            detail=detail,
            raised_at=None if math.isnan(raised) else raised,
        )

    def to_bytes(self) -> bytes:
        """Gives the whole state."""
        settings = dataclasses.asdict(self.settings) | {"aspect": self.settings.aspect.value}
        fields = {"names": self.names, "settings": settings, "decisions": self._evidence.decisions}
        arrays = {
            "limits": self.limits,
            "recent": self._recent,
            "stretch": self._stretch,
            "stakes": self._evidence.log_stakes,
            "raised_at": self._evidence.raised_at,
        }
        return state.pack("rates", fields, arrays)

    @staticmethod
    def from_bytes(data: bytes) -> RateMonitor:
        """Restores a monitor from `to_bytes`.

        Raises:
            InvalidArgument: the bytes are not such a state.
        """
        fields, arrays = state.unpack("rates", data)
        with state.checked("rates"):
            settings = fields["settings"] | {"aspect": Aspect(fields["settings"]["aspect"])}
            monitor = RateMonitor(fields["names"], arrays["limits"].tolist(), RateSettings(**settings))
            monitor._evidence.decisions = int(fields["decisions"])
            monitor._recent = state.shaped(arrays["recent"], monitor._recent)
            monitor._stretch = state.shaped(arrays["stretch"], monitor._stretch)
            monitor._evidence.log_stakes = state.shaped(arrays["stakes"], monitor._evidence.log_stakes)
            monitor._evidence.raised_at = state.shaped(arrays["raised_at"], monitor._evidence.raised_at)
        return monitor
