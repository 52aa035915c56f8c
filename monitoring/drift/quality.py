"""Online monitor of data quality: missing values, outliers, new categories, constant features, broken rows.

Rates are held against the thresholds of the family or against what the reference shows to be usual, whichever is
higher: a feature that is missing in a third of all rows by nature is no alert. Tests are those of `rates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from bentos.thresholds import Thresholds
from monitoring.drift import state
from monitoring.drift.binning import Kind
from monitoring.drift.control import Floats, spent
from monitoring.drift.rates import RateMonitor, RateSettings
from monitoring.drift.results import Aspect, DriftResult, Verdict, Window
from services.runtime.errors import InvalidArgument

CODES: Final = 4_096
"""Category codes from here on count as one."""
STRETCH: Final = 1_000
"""Decisions over which a feature must not stay constant."""
_FENCE: Final = 3.0
_DOUBT: Final = 1e-4


def upper_rate(hits: Floats, trials: float) -> Floats:
    """Gives a bound of a rate that holds with probability 1 - 1e-4 (Clopper and Pearson 1934); 1 without trials."""
    if trials <= 0:
        return np.ones_like(hits)
    bound = betaincinv(hits + 1, np.maximum(trials - hits, 1e-9), 1 - _DOUBT)
    return np.asarray(np.where(hits >= trials, 1.0, bound))


class QualityMonitor:
    """Watches rows of named features. A fifth of the reference fixes the fences of outliers, the rest usual rates."""

    def __init__(self, names: Sequence[str], kinds: Sequence[Kind], thresholds: Thresholds, alpha: float) -> None:
        self.names, self.kinds = tuple(names), tuple(kinds)
        self.thresholds = thresholds
        self.alpha = alpha
        columns = len(self.names)
        self._number = np.array([kind is Kind.NUMBER for kind in self.kinds])
        self._fit = thresholds.reference_decisions // 5
        self._first: NDArray[np.float32] = np.empty((0, columns), np.float32)
        self._fences: Floats = np.empty((0, columns))
        """Lowest and highest value that is no outlier, [2, columns] once they are known."""
        self._seen: NDArray[np.uint8] = np.zeros((int((~self._number).sum()), CODES), np.uint8)
        """Categories of the reference."""
        self._usual: Floats = np.zeros((2, columns))
        """Reference: missing, and outliers or new categories."""
        self._rates: RateMonitor | None = None
        self._mode: Floats = np.ones(columns)
        """Upper bound of the share of the feature's most frequent value in the reference."""
        self._range: Floats = _empty_range(columns)
        self._constant: Floats = np.full(columns, np.nan)
        """p-value of the last stretch having been constant by chance; NaN when it was not constant."""
        self._stretches = 0
        self.decisions = 0

    def update(self, rows: NDArray[np.float32], violations: NDArray[np.bool_]) -> None:
        """Takes decisions in order: float32 [n, features], NaN for missing, and whether each broke the schema [n]."""
        if rows.ndim != 2 or rows.shape[1] != len(self.names) or violations.shape != rows.shape[:1]:
            raise InvalidArgument("rows", f"rows have {len(self.names)} columns, and one flag each")
        start = 0
        while start < len(rows):
            start += self._take(np.asarray(rows[start:], np.float32), violations[start:])

    def _take(self, rows: NDArray[np.float32], violations: NDArray[np.bool_]) -> int:
        reference = self.thresholds.reference_decisions
        if self.decisions < self._fit:
            part = rows[: self._fit - self.decisions]
            self._first = np.concatenate((self._first, part))
            if len(self._first) == self._fit:
                self._learn()
        elif self.decisions < reference:
            part = rows[: reference - self.decisions]
            self._usual += np.stack([mask.sum(axis=0) for mask in self._masks(part)])
            if self.decisions + len(part) == reference:
                self._begin()
        else:
            part = rows[: STRETCH - (self.decisions - reference) % STRETCH]
            self._test(part, violations[: len(part)])
        self.decisions += len(part)
        return len(part)

    def _learn(self) -> None:
        columns = len(self.names)
        fences = np.stack((np.full(columns, -np.inf), np.full(columns, np.inf)))
        for column in range(columns):
            known = self._first[:, column][np.isfinite(self._first[:, column])]
            if not len(known):
                continue
            values, counts = np.unique(known, return_counts=True)
            self._mode[column] = float(upper_rate(np.array([counts.max()]), len(known))[0])
            if len(values) == 1:
                self._mode[column] = 1.0
            if self.kinds[column] is Kind.NUMBER:
                low, high = np.quantile(known, (0.25, 0.75))
                fences[:, column] = low - _FENCE * (high - low), high + _FENCE * (high - low)
            else:
                place = int((~self._number[:column]).sum())
                self._seen[place, _codes(values)] = 1
        self._fences = fences
        self._first = self._first[:0].copy()

    def _masks(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Says what is missing, and what is an outlier or a new category, each [n, features]."""
        missing = np.isnan(rows)
        odd = ~missing & ((rows < self._fences[0]) | (rows > self._fences[1]))
        for place, column in enumerate(np.flatnonzero(~self._number)):
            known = ~missing[:, column]
            odd[known, column] = self._seen[place, _codes(rows[known, column])] == 0
        return missing, odd

    def _begin(self) -> None:
        trials = float(self.thresholds.reference_decisions - self._fit)
        usual = upper_rate(self._usual, trials)
        declared = np.where(self._number, self.thresholds.outlier_rate, 0.0)
        limits = np.concatenate(
            (
                np.maximum(usual[0], self.thresholds.null_rate),
                np.maximum(usual[1], declared),
                [self.thresholds.schema_violation_rate],
            )
        )
        odd = ["outliers" if number else "new categories" for number in self._number]
        names = [f"{name}: missing" for name in self.names]
        names += [f"{name}: {what}" for name, what in zip(self.names, odd, strict=True)]
        # A rate that is usually 1 cannot rise; the limit stays under 1 so that the bets are defined.
        settings = RateSettings(
            aspect=Aspect.QUALITY,
            alpha=self.alpha / 2,
            minimum=self.thresholds.minimum_decisions,
            before=self.thresholds.reference_decisions,
        )
        self._rates = RateMonitor([*names, "schema violations"], np.minimum(limits, 0.999).tolist(), settings)

    def _test(self, rows: NDArray[np.float32], violations: NDArray[np.bool_]) -> None:
        assert self._rates is not None
        missing, odd = self._masks(rows)
        self._rates.update(np.column_stack((missing, odd, violations)).astype(np.float64))
        self._range[0] = np.minimum(self._range[0], np.where(missing, np.inf, rows).min(axis=0))
        self._range[1] = np.maximum(self._range[1], np.where(missing, -np.inf, rows).max(axis=0))
        self._range[2] += (~missing).sum(axis=0)
        if (self.decisions + len(rows) - self.thresholds.reference_decisions) % STRETCH == 0:
            self._stretches += 1
            # The share for this stretch and column is taken out, so that the p-value compares with alpha.
            chance = self._mode ** self._range[2] * len(self.names) / spent(1.0, self._stretches)
            constant = (self._range[0] == self._range[1]) & (self._mode < 1)
            self._constant = np.where(constant, np.minimum(chance, 1.0), np.nan)
            self._range = _empty_range(len(self.names))

    def results(self) -> tuple[DriftResult, ...]:
        """Gives a result for each rate, and one for the constant features."""
        if self._rates is None:
            return ()
        return (*self._rates.results(), self._constants())

    def _constants(self) -> DriftResult:
        alpha = self.alpha / 2
        sure = np.flatnonzero(np.nan_to_num(self._constant, nan=1.0) <= alpha)
        names = ", ".join(self.names[i] for i in sure)
        reference = self.thresholds.reference_decisions
        verdict, detail = Verdict.OK, "every feature that varied in the reference still does"
        if not self._stretches:
            verdict, detail = Verdict.NOT_ENOUGH_DATA, f"{STRETCH} decisions after the reference are needed"
        elif len(sure):
            verdict, detail = Verdict.DRIFT, f"constant over the last {STRETCH} decisions, unlike before: {names}"
        end = reference + self._stretches * STRETCH
        return DriftResult(
            aspect=Aspect.QUALITY,
            subject="constant features",
            test="chance of a constant stretch from the reference's most frequent value",
            reference=Window(reference, 0, reference),
            current=Window(STRETCH if self._stretches else 0, max(reference, end - STRETCH), end),
            measure="features",
            effect=float(len(sure)),
            limit=0.0,
            p_value=float(np.nanmin(np.append(self._constant, 1.0))),
            false_alarm_rate=alpha,
            verdict=verdict,
            detail=detail,
            raised_at=end if len(sure) else None,
        )

    def to_bytes(self) -> bytes:
        """Gives the state; the names, kinds and thresholds are the family's and are not part of it."""
        arrays = {
            "first": self._first,
            "fences": self._fences,
            "seen": np.packbits(self._seen, axis=1),
            "usual": self._usual,
            "mode": self._mode,
            "range": self._range,
            "constant": self._constant,
            "rates": np.frombuffer(self._rates.to_bytes() if self._rates else b"", np.uint8),
        }
        return state.pack("quality", {"counts": [self.decisions, self._stretches]}, arrays)

    def restore(self, data: bytes) -> None:
        """Takes over a state from `to_bytes` of a monitor of the same features.

        Raises:
            InvalidArgument: the bytes are not such a state.
        """
        fields, arrays = state.unpack("quality", data)
        with state.checked("quality"):
            self.decisions, self._stretches = fields["counts"]
            self._first, self._fences = arrays["first"], arrays["fences"]
            self._seen = state.shaped(np.unpackbits(arrays["seen"], axis=1), self._seen)
            self._usual = state.shaped(arrays["usual"], self._usual)
            self._mode = state.shaped(arrays["mode"], self._mode)
            self._range = state.shaped(arrays["range"], self._range)
            self._constant = state.shaped(arrays["constant"], self._constant)
            rates = arrays["rates"].tobytes()
            self._rates = RateMonitor.from_bytes(rates) if rates else None


def _empty_range(columns: int) -> Floats:
    return np.stack((np.full(columns, np.inf), np.full(columns, -np.inf), np.zeros(columns)))


def _codes(values: NDArray[np.float32]) -> NDArray[np.int64]:
    # What is no code at all (an infinity) counts with the codes that are too large.
    return np.clip(np.nan_to_num(values, posinf=CODES, neginf=CODES), 0, CODES - 1).astype(np.int64)
