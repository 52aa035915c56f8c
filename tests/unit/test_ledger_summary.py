"""Percentiles and means of a summary, against the plainest way to compute them."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.ledger.reading import _mean, _nearest_ranks


@given(st.lists(st.integers(0, 50), min_size=1, max_size=250))
def test_percentiles_are_the_nearest_ranks_of_the_sorted_values(values: list[int]) -> None:
    """The q-th percentile is the ⌈q·n⌉-th smallest value."""
    ordered = sorted(values)
    expected = tuple(ordered[math.ceil(Fraction(q, 100) * len(values)) - 1] for q in (50, 99))
    assert _nearest_ranks(sorted(Counter(values).items()), len(values)) == expected


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=50))
def test_the_mean_is_that_of_exact_arithmetic(values: list[float]) -> None:
    """Huge and tiny values of both signs neither overflow nor cancel to noise, and their order does not matter."""
    exact = float(sum(map(Fraction, values)) / len(values))
    counted = sorted(Counter(values).items())
    count, mean = _mean(counted)
    assert count == len(values)
    largest = max(map(abs, values))
    assert mean == pytest.approx(exact, rel=1e-12, abs=largest * 1e-14 + 1e-290)
    assert _mean(reversed(counted)) == (count, mean)
