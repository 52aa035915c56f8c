"""Online monitor of distributions: does the stream still look like its own beginning? Valid at every look.

While a stream is exchangeable, the rank of each new value among all values before it is uniform and independent of
what came before (Vovk, Gammerman and Shafer 2005, smoothed conformal p-values). That holds exactly, whatever the
distribution and however short the reference: the history grows with the stream, so the reference's own chance is part
of the test. Ranks are taken within bins that the first rows fixed, which keeps memory constant. `Evidence` bets against
uniform ranks; `e_bh` corrects for the number of columns.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from monitoring.drift import state
from monitoring.drift.binning import WIDTH, Binning, Kind, counted
from monitoring.drift.control import Floats, e_bh
from monitoring.drift.evidence import Evidence
from monitoring.drift.results import Aspect, DriftResult, Verdict, Window, waits_for
from services.runtime.errors import InvalidArgument

BLOCK: Final = 128
"""Decisions of a block: evidence is laid and looked at between blocks."""
RECENT: Final = 1_000
"""The effect is measured over the last one to two times as many decisions."""
_CELLS: Final = 8
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionSettings:
    """What is watched, and how strictly."""

    aspect: Aspect
    effect: float
    """Distance (Kolmogorov-Smirnov) that is still fine: bets lose against smaller shifts."""
    alpha: float
    """False-alarm rate of all columns over the whole run."""
    reference: int
    """Decisions of the reference; a fifth of them fixes the bins, the others are the first history."""
    minimum: int
    seed: int
    """Of the numbers that break ties within a bin; the same stream gives the same results."""


class DistributionMonitor:
    """Watches named columns of a stream, in constant memory."""

    def __init__(self, names: Sequence[str], kinds: Sequence[Kind], settings: DistributionSettings) -> None:
        self.names = tuple(names)
        self.kinds = tuple(kinds)
        self.settings = settings
        columns = len(self.names)
        self._coefficients = _bets(settings.effect)
        self._evidence = Evidence(columns, self._coefficients.shape[1])
        self._binning: Binning | None = None
        self._first: NDArray[np.float32] = np.empty((0, columns), np.float32)
        self._reference: Floats = np.zeros((columns, WIDTH))
        self._history: Floats = np.zeros((columns, WIDTH))
        self._recent: Floats = np.zeros((2, columns, WIDTH))
        self.decisions = 0

    def update(self, rows: NDArray[np.float32]) -> None:
        """Takes decisions in their order, float32 [n, columns], NaN for missing."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != len(self.names):
            raise InvalidArgument("rows", f"rows have {len(self.names)} columns, not the shape {rows.shape}")
        while len(rows):
            rows = rows[self._take(rows) :]

    def _take(self, rows: NDArray[np.float32]) -> int:
        """Takes as many rows as the present phase wants; gives how many."""
        fit = self.settings.reference // 5
        if self._binning is None:
            part = rows[: fit - self.decisions]
            self._first = np.concatenate((self._first, part))
            if len(self._first) == fit:
                self._binning = Binning.learn(self.kinds, self._first)
                self._first = self._first[:0].copy()
        elif self.decisions < self.settings.reference:
            part = rows[: self.settings.reference - self.decisions]
            counts = counted(self._binning.bins(part))
            self._reference += counts
            self._history += counts
        else:
            part = rows[:BLOCK]
            self._test(self._binning.bins(part))
        self.decisions += len(part)
        return len(part)

    def _test(self, bins: NDArray[np.int64]) -> None:
        n, columns = bins.shape
        ranks = self._ranks(bins)
        scores = ndtri(np.clip(ranks, _TINY, 1 - _TINY))
        cells = np.minimum((ranks * _CELLS).astype(np.int64), _CELLS - 1)
        cell_counts = np.bincount((cells + np.arange(columns) * _CELLS).ravel(), minlength=columns * _CELLS)
        sums = np.empty((columns, 3 + _CELLS))
        sums[:, 0] = n
        sums[:, 1] = scores.sum(axis=0)
        sums[:, 2] = np.einsum("ij,ij->j", scores, scores)
        sums[:, 3:] = cell_counts.reshape(columns, _CELLS)
        self._evidence.add(sums @ self._coefficients, n)
        rejected = self._log_p() <= math.log(self.settings.alpha)
        self._evidence.mark(rejected, self.decisions + n)
        counts = counted(bins)
        # What drifted is not to become the standard that later decisions are held against.
        self._history[~rejected] += counts[~rejected]
        self._recent[1] += counts
        if self._recent[1][0].sum() >= RECENT:
            self._recent = np.stack((self._recent[1], np.zeros_like(counts)))

    def _ranks(self, bins: NDArray[np.int64]) -> Floats:
        """Gives the smoothed rank of each value among the history and the block's earlier values, in [0, 1)."""
        n, columns = bins.shape
        earlier = np.zeros((n + 1, columns, WIDTH))
        earlier[0] = self._history
        rows, places = np.arange(n)[:, None], np.arange(columns)[None, :]
        earlier[rows + 1, places, bins] = 1.0
        np.cumsum(earlier, axis=0, out=earlier)
        own = earlier[rows, places, bins]
        np.cumsum(earlier, axis=2, out=earlier)
        upto = earlier[rows, places, bins]
        total = earlier[:n, :, -1]
        # Each call has numbers of its own, drawn from the seed and the place in the stream.
        chance = np.random.Generator(np.random.Philox(key=self.settings.seed, counter=[0, 0, 0, self.decisions]))
        return np.asarray((upto - own + chance.random((n, columns)) * (own + 1)) / (total + 1))

    def _log_p(self) -> Floats:
        return e_bh(self._evidence.log_e())

    def results(self) -> tuple[DriftResult, ...]:
        """Gives a result for each column; the p-values hold at every look of the whole run."""
        reference = Window(
            min(self.decisions, self.settings.reference), 0, min(self.decisions, self.settings.reference)
        )
        recent = self._recent.sum(axis=0)
        size = int(recent[0].sum())
        current = Window(size, self.decisions - size, self.decisions)
        effects = _distances(self._reference, recent, self.kinds)
        p_values = np.exp(self._log_p())
        return tuple(
            self._result(i, reference, current, float(effects[i]), float(p_values[i])) for i in range(len(self.names))
        )

    def _result(self, column: int, reference: Window, current: Window, effect: float, p_value: float) -> DriftResult:
        settings, name = self.settings, self.names[column]
        numeric = self.kinds[column] is Kind.NUMBER
        if p_value <= settings.alpha:
            verdict, detail = Verdict.DRIFT, f"{name} no longer has the distribution of the reference"
        elif current.decisions < settings.minimum:
            verdict, missing = Verdict.NOT_ENOUGH_DATA, settings.minimum - current.decisions
            detail = waits_for(self.decisions, settings.reference, missing, "decisions")
        else:
            verdict, detail = Verdict.OK, f"{name} agrees with the reference"
        raised = float(self._evidence.raised_at[column])
        return DriftResult(
            aspect=settings.aspect,
            subject=name,
            test="conformal e-process, e-BH over columns",
            reference=reference,
            current=current,
            measure="Kolmogorov-Smirnov distance" if numeric else "total variation distance",
            effect=effect,
            limit=settings.effect,
            p_value=p_value,
            false_alarm_rate=settings.alpha,
            verdict=verdict,
            detail=detail,
            raised_at=None if math.isnan(raised) else raised,
        )

    @property
    def ready(self) -> bool:
        """Whether the reference is complete."""
        return self.decisions >= self.settings.reference

    def to_bytes(self) -> bytes:
        """Gives the whole state; its size does not depend on the number of decisions."""
        fields = {
            "names": self.names,
            "kinds": [kind.value for kind in self.kinds],
            "settings": dataclasses.asdict(self.settings) | {"aspect": self.settings.aspect.value},
            "decisions": [self.decisions, self._evidence.decisions],
            "fitted": self._binning is not None,
        }
        arrays = {
            "marks": self._binning.marks if self._binning else np.empty((0, WIDTH)),
            "first": self._first,
            "reference": self._reference,
            "history": self._history,
            "recent": self._recent,
            "stakes": self._evidence.log_stakes,
            "raised_at": self._evidence.raised_at,
        }
        return state.pack("distributions", fields, arrays)

    @staticmethod
    def from_bytes(data: bytes) -> DistributionMonitor:
        """Restores a monitor from `to_bytes`.

        Raises:
            InvalidArgument: the bytes are not such a state.
        """
        fields, arrays = state.unpack("distributions", data)
        with state.checked("distributions"):
            settings = fields["settings"] | {"aspect": Aspect(fields["settings"]["aspect"])}
            kinds = tuple(Kind(kind) for kind in fields["kinds"])
            monitor = DistributionMonitor(fields["names"], kinds, DistributionSettings(**settings))
            monitor.decisions, monitor._evidence.decisions = fields["decisions"]
            monitor._binning = Binning(kinds, arrays["marks"]) if fields["fitted"] else None
            monitor._first = arrays["first"]
            monitor._reference = state.shaped(arrays["reference"], monitor._reference)
            monitor._history = state.shaped(arrays["history"], monitor._history)
            monitor._recent = state.shaped(arrays["recent"], monitor._recent)
            monitor._evidence.log_stakes = state.shaped(arrays["stakes"], monitor._evidence.log_stakes)
            monitor._evidence.raised_at = state.shaped(arrays["raised_at"], monitor._evidence.raised_at)
        return monitor


def _bets(effect: float) -> Floats:
    """Gives the coefficients of the bets' logarithms on (n, sum z, sum z², counts of cells), [3 + cells, bets].

    Shifts of the mean by 2, 4 and 8 times the shift that `effect` stands for, up and down (a bet on 2 d loses
    against shifts under d: that is what makes `effect` a tolerance); a wider and a narrower spread; and for every
    eighth of the ranks more and less mass than there should be.
    """
    shift = 2 * ndtri((1 + effect) / 2)
    columns = [[-((k * shift) ** 2) / 2, k * shift, 0.0, *(0.0,) * _CELLS] for k in (-8, -4, -2, 2, 4, 8)]
    columns += [[-math.log(sd), 0.0, (1 - sd**-2) / 2, *(0.0,) * _CELLS] for sd in (0.6, 1.6)]
    for cell in range(_CELLS):
        for ratio in (1 + 20 * effect, 1 / (1 + 20 * effect)):
            inside = min(ratio, _CELLS / 2)
            rest = (1 - inside / _CELLS) / (1 - 1 / _CELLS)
            logs = [math.log(rest)] * _CELLS
            logs[cell] = math.log(inside)
            columns.append([0.0, 0.0, 0.0, *logs])
    return np.array(columns).T


def _distances(reference: Floats, current: Floats, kinds: tuple[Kind, ...]) -> Floats:
    """Gives the distance of each column, [columns], in [0, 1]; 0 where one side is empty. Missing counts as a value."""
    sizes = np.minimum(reference.sum(axis=1), current.sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = current / current.sum(axis=1, keepdims=True) - reference / reference.sum(axis=1, keepdims=True)
    ordered = np.abs(np.cumsum(difference, axis=1)).max(axis=1)
    numeric = np.array([kind is Kind.NUMBER for kind in kinds])
    found = np.where(numeric, ordered, np.abs(difference).sum(axis=1) / 2)
    return np.where(sizes > 0, found, 0.0)
