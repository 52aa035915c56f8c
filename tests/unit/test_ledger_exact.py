"""Exact sums: what was added can be taken away again to the last bit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitoring.ledger.exact import as_float, exact_sum, pack, units, unpack
from monitoring.ledger.statistics import Statistics

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, max_value=1e300, min_value=-1e300)


@given(st.lists(NUMBERS, max_size=60))
def test_a_sum_is_that_of_exact_arithmetic(numbers: list[float]) -> None:
    """Huge and tiny numbers of both signs neither overflow nor cancel to noise, however many there are."""
    exact = sum(map(Fraction, numbers), Fraction())
    total = exact_sum(np.array(numbers))
    assert Fraction(total, 2**1126) == exact
    assert as_float(total) == float(exact)
    assert as_float(total, 7) == float(exact / 7)


@given(st.lists(NUMBERS, min_size=1, max_size=40), st.data())
def test_taking_away_leaves_the_sum_of_the_rest(numbers: list[float], data: st.DataObject) -> None:
    """Order and detours leave no trace."""
    gone = data.draw(st.sampled_from(numbers))
    rest = list(numbers)
    rest.remove(gone)
    assert exact_sum(np.array(numbers)) - units(gone) == exact_sum(np.array(rest))
    assert exact_sum(np.array(numbers)) == exact_sum(np.array(data.draw(st.permutations(numbers))))


@given(st.lists(NUMBERS, max_size=8))
def test_packed_sums_come_back(numbers: list[float]) -> None:
    """The packed form loses nothing; no data are zeros."""
    totals = [units(number) for number in numbers]
    assert unpack(pack(totals), len(totals)) == totals
    assert unpack(b"", 3) == [0, 0, 0]


def test_rows_of_before_something_was_counted_are_read() -> None:
    """Shorter columns are filled up with zeros: 41 counts, 10 sums, 3 rows of the calibration table."""
    whole = Statistics()
    whole.tally.counts[:41] = np.arange(41)
    whole.tally.outcome_sums[:10] = range(1, 11)
    whole.tally.calibration[:3] = 7
    counts, sums, calibration, *rest = whole.as_columns()
    short = (counts[: 41 * 8], pack(unpack(sums, 12)[:10]), calibration[: 3 * 20 * 8])
    read = Statistics.from_columns(*short, *rest)
    assert read.as_columns()[:4] == whole.as_columns()[:4]
