"""Bins of a stream's columns, learnt from its first rows and fixed from then on."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.control import Floats

WIDTH: Final = 40
"""Bins of a column; the last one holds what is missing."""
_QUANTILES: Final = 24
_ATOMS: Final = 12
"""A column with at most as many different values gets a bin for each of them."""
_CODES: Final = WIDTH - 2
"""Categories with a bin of their own, the most frequent ones; all others share one."""


class Kind(Enum):
    """How a column's values are compared."""

    NUMBER = "number"
    CATEGORY = "category"
    """Codes without an order."""


class Binning:
    """Gives every value its bin: numbers by quantiles of the first rows, categories by how often they occurred.

    Values that occur often (a constant, a flag, a whole number) have a bin of their own, so that a shift to either
    side of them shows. Rare categories are last, so that ones never seen are the most extreme.
    """

    def __init__(self, kinds: tuple[Kind, ...], marks: Floats) -> None:
        """`marks` [columns, WIDTH]: edges of a number's bins, ascending; codes of a category by falling frequency."""
        self.kinds = kinds
        self.marks = marks
        self._sorted: list[tuple[Floats, NDArray[np.int64]]] = []
        for row in marks:
            known = row[~np.isnan(row)]
            order = np.argsort(known, kind="stable")
            self._sorted.append((known[order], order.astype(np.int64)))

    @staticmethod
    def learn(kinds: tuple[Kind, ...], rows: NDArray[np.float32]) -> Binning:
        """Learns the bins from `rows`, float32 [n, columns], NaN for missing."""
        marks = np.full((len(kinds), WIDTH), np.nan)
        for column, kind in enumerate(kinds):
            known = rows[:, column][~np.isnan(rows[:, column])]
            found = _codes(known) if kind is Kind.CATEGORY else _edges(known)
            marks[column, : len(found)] = found
        return Binning(kinds, marks)

    def bins(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        """Gives the bin of every value, [n, columns]."""
        found = np.empty(rows.shape, np.int64)
        for column, (known, order) in enumerate(self._sorted):
            values = rows[:, column]
            if self.kinds[column] is Kind.NUMBER:
                place = np.searchsorted(known, values, side="right")
            elif len(known):
                near = np.minimum(np.searchsorted(known, values), len(known) - 1)
                place = np.where(known[near] == values, order[near], _CODES)
            else:
                place = np.full(len(values), _CODES)
            found[:, column] = np.where(np.isnan(values), WIDTH - 1, place)
        return found


def counted(bins: NDArray[np.int64]) -> Floats:
    """Counts the bins of a block, [columns, WIDTH]."""
    columns = bins.shape[1]
    flat = (bins + np.arange(columns) * WIDTH).ravel()
    return np.bincount(flat, minlength=columns * WIDTH).reshape(columns, WIDTH).astype(np.float64)


def _edges(known: NDArray[np.float32]) -> NDArray[Any]:
    values = np.unique(known)
    if len(values) <= _ATOMS:
        atoms = values
        edges = values
    else:
        quantiles = np.quantile(known, np.arange(1, _QUANTILES) / _QUANTILES, method="lower")
        edges, repeats = np.unique(quantiles, return_counts=True)
        atoms = edges[repeats > 1]
    with np.errstate(over="ignore"):
        # Above the largest number lies infinity, which is what is meant.
        above = np.nextafter(atoms, np.float32(np.inf), dtype=np.float32)
    return np.unique(np.concatenate((edges, above)))


def _codes(known: NDArray[np.float32]) -> NDArray[Any]:
    values, counts = np.unique(known, return_counts=True)
    return values[np.argsort(-counts, kind="stable")][:_CODES]
