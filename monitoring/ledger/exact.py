"""Sums of floating-point numbers without any rounding, so that what was added can be taken away again to the last bit.

A sum is a Python integer that counts units of 2^-1126. The smallest double is 2^-1074 and a double has 53 bits, so
every finite double, and every sum of doubles, is a whole number of units. Sums do not depend on the order of their
terms, and correcting a term leaves exactly the sum of the others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_UNIT: Final = 1126
_ONE: Final = 1 << _UNIT
_FEW: Final = 12
"""Up to so many terms numpy costs more than it saves."""
_HEAD: Final = struct.Struct("<HH")
_LOW_BITS: Final = 27


def exact_sum(terms: NDArray[np.float64]) -> int:
    """Gives the exact sum of at most 2^26 finite terms, in units."""
    if terms.size <= _FEW:
        return sum(map(units, terms.tolist()))
    mantissas, exponents = np.frexp(terms)
    whole = (mantissas * 2.0**53).astype(np.int64)
    lowest = int(exponents.min())
    places = exponents - lowest
    # Halves of the mantissas: their float sums stay under 2^53, so they are exact.
    high = np.bincount(places, weights=whole >> _LOW_BITS)
    low = np.bincount(places, weights=whole & ((1 << _LOW_BITS) - 1))
    total = 0
    for place in np.flatnonzero((high != 0) | (low != 0)).tolist():
        part = (int(high[place]) << _LOW_BITS) + int(low[place])
        total += part << (place + lowest - 53 + _UNIT)
    return total


def units(number: float) -> int:
    """Gives a finite number in units."""
    numerator, denominator = number.as_integer_ratio()
    return numerator << (_UNIT + 1 - denominator.bit_length())


def as_float(total: int, divisor: int = 1) -> float:
    """Gives a sum, or its quotient by a whole number, correctly rounded.

    Raises:
        OverflowError: it is larger than any double.
    """
    return total / (_ONE * divisor)


def pack(totals: Iterable[int]) -> bytes:
    """Writes sums without their trailing zeros: a dozen bytes each."""
    parts = []
    for total in totals:
        if total == 0:
            parts.append(_HEAD.pack(0, 0))
            continue
        zeros = (total & -total).bit_length() - 1
        rest = total >> zeros
        size = rest.bit_length() // 8 + 1
        parts.append(_HEAD.pack(zeros, size) + rest.to_bytes(size, "little", signed=True))
    return b"".join(parts)


def unpack(data: bytes, count: int) -> list[int]:
    """Reads `count` sums; the inverse of `pack`. What the data are too short for is 0."""
    totals, place = [], 0
    while place < len(data):
        zeros, size = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        totals.append(int.from_bytes(data[place : place + size], "little", signed=True) << zeros)
        place += size
    return totals + [0] * (count - len(totals))


def added(left: Sequence[int], right: Sequence[int]) -> list[int]:
    """Adds sums one by one."""
    return [a + b for a, b in zip(left, right, strict=True)]
