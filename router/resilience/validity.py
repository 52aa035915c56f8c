"""Whether an answer may be used, and whether a row resembles what a variant was trained on."""

from __future__ import annotations

from collections.abc import Sequence

from bentos.family import Target

Bounds = tuple[tuple[float, float], ...]
"""The lowest and highest value of each feature, in the schema's order, that a variant was trained on."""


def valid_range(target: Target) -> tuple[float, float]:
    """Gives the smallest and the largest answer that may be used: the target's range, with room for float32."""
    slack = 1e-6 * max(1.0, abs(target.low), abs(target.high))
    return target.low - slack, target.high + slack


def outside(vector: Sequence[float], bounds: Bounds) -> bool:
    """Tells whether any known value lies outside of its feature's bounds; a missing value (NaN) never does."""
    return any(value < low or value > high for value, (low, high) in zip(vector, bounds, strict=True))
