"""What is known of the features that one variant saw in one window: nulls, moments, and each feature's distribution."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never

import numpy as np
from datasketches import kll_floats_sketch
from numpy.typing import NDArray

from bentos.schema import Category, Flag, Number, Schema
from monitoring.ledger.statistics import SKETCH_K

_LENGTH: Final = struct.Struct("<I")
Distribution = Any
"""A KLL sketch of floats for a number; an int64 array of counts by code for a category or a flag."""


@dataclass(slots=True)
class FeatureStatistics:
    """Statistics of a schema's features, in its order.

    The moments are float sums: good to about 1e-12 of the largest term, and in the last bits dependent on the order.
    """

    rows: int
    nulls: NDArray[np.int64]
    sums: NDArray[np.float64]
    """Sum of each feature's known values."""
    squares: NDArray[np.float64]
    distributions: list[Distribution]

    @classmethod
    def of_sizes(cls, sizes: Sequence[int | None]) -> FeatureStatistics:
        """Gives the statistics of no rows. `sizes` has one entry a feature: None for a number, else how many codes."""
        width = len(sizes)
        return cls(
            0,
            np.zeros(width, np.int64),
            np.zeros(width),
            np.zeros(width),
            [kll_floats_sketch(SKETCH_K) if size is None else np.zeros(size, np.int64) for size in sizes],
        )

    def add(self, rows: NDArray[np.float32]) -> None:
        """Counts rows: an array of [rows, features], NaN where a feature is not known."""
        missing = np.isnan(rows)
        self.rows += len(rows)
        self.nulls += missing.sum(axis=0)
        # A feature's values side by side, and writable: the sketches take nothing else.
        columns = rows.T.copy(order="C")
        known = np.where(missing.T, np.float32(0), columns).astype(np.float64)
        self.sums += known.sum(axis=1)
        self.squares += np.einsum("ij,ij->i", known, known)
        for place, distribution in enumerate(self.distributions):
            column = columns[place]
            if isinstance(distribution, np.ndarray):
                codes = column[~missing[:, place]].astype(np.int64)
                counts = np.bincount(np.clip(codes, 0, len(distribution) - 1), minlength=len(distribution))
                np.add(distribution, counts, out=distribution)
            else:
                distribution.update(column)  # leaves NaN out

    def merge(self, other: FeatureStatistics) -> None:
        """Adds the statistics of other rows of the same schema."""
        self.rows += other.rows
        self.nulls += other.nulls
        self.sums += other.sums
        self.squares += other.squares
        for mine, theirs in zip(self.distributions, other.distributions, strict=True):
            if isinstance(mine, np.ndarray):
                np.add(mine, theirs, out=mine)
            else:
                mine.merge(theirs)

    def pack(self) -> bytes:
        """Writes all but `rows`."""
        parts = [self.nulls.astype("<i8").tobytes(), self.sums.astype("<f8").tobytes()]
        parts.append(self.squares.astype("<f8").tobytes())
        for distribution in self.distributions:
            counts = isinstance(distribution, np.ndarray)
            data = distribution.astype("<i8").tobytes() if counts else distribution.serialize()
            parts += (_LENGTH.pack(len(data)), data)
        return b"".join(parts)

    @classmethod
    def unpack(cls, rows: int, data: bytes, sizes: Sequence[int | None]) -> FeatureStatistics:
        """Reads what `pack` wrote. `sizes` has one entry a feature: None for a number, else how many codes."""
        width = len(sizes)
        moments = np.frombuffer(data, "<f8", 2 * width, 8 * width)
        place = 24 * width
        distributions: list[Distribution] = []
        for size in sizes:
            (length,) = _LENGTH.unpack_from(data, place)
            place += _LENGTH.size
            part = data[place : place + length]
            place += length
            distributions.append(
                kll_floats_sketch.deserialize(part) if size is None else np.frombuffer(part, "<i8").astype(np.int64)
            )
        nulls = np.frombuffer(data, "<i8", width).astype(np.int64)
        return cls(rows, nulls, moments[:width].copy(), moments[width:].copy(), distributions)


def category_sizes(schema: Schema) -> list[int | None]:
    """Gives how many codes each feature has; None for a number."""
    sizes: list[int | None] = []
    for feature in schema.features:
        match feature:
            case Number():
                sizes.append(None)
            case Category():
                sizes.append(len(feature.values))
            case Flag():
                sizes.append(2)
            case _ as never:
                assert_never(never)
    return sizes
