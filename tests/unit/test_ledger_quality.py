"""Quality that is read off the ledger's totals: the figures are those of the decisions themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bentos.family import load
from monitoring.cycle.quality import report, statistics
from monitoring.ledger.aggregates import Totals
from monitoring.ledger.statistics import Statistics
from monitoring.ledger.tally import BINS, FIXED_POINT, Outcomes, Tally, TargetRange
from monitoring.validation.binary import BinaryReport

BINARY = TargetRange(binary=True, low=0.0, high=1.0)
FAMILY = load("dispatch")
Pair = tuple[float, float]
PAIRS = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=1, max_size=80)


def tallied(rows: list[Pair], sign: int = 1) -> Tally:
    p, y = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    return Tally.of_outcomes(Outcomes(np.full(len(rows), sign), p, y, np.full(len(rows), np.nan)), BINARY)


def reported(tally: Tally) -> BinaryReport:
    found = report(statistics(FAMILY, Totals(Statistics(tally))))
    assert isinstance(found, BinaryReport)
    return found


def columns(rows: list[Pair]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([p for p, _ in rows]), np.array([y for _, y in rows])


def tenths(p: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((p * BINS).astype(np.int64), BINS - 1) // (BINS // 10)


def expected_calibration_error(rows: list[Pair]) -> float:
    """From the rows: mean distance of mean prediction and frequency over tenths of the prediction."""
    p, y = columns(rows)
    insides = [tenths(p) == tenth for tenth in range(10)]
    gaps = [abs(p[inside].mean() - y[inside].mean()) * inside.sum() for inside in insides if inside.any()]
    return float(sum(gaps) / len(rows))


@given(PAIRS)
def test_calibration_and_brier_score_are_those_of_the_rows(rows: list[Pair]) -> None:
    """Brier score exactly; the calibration error, the curve and its counts to the table's 2⁻²⁴."""
    found = reported(tallied(rows))
    p, y = columns(rows)
    assert found.brier is not None
    assert found.brier.value == pytest.approx(float(((p - y) ** 2).mean()), rel=1e-12, abs=1e-300)
    assert found.expected_calibration_error == pytest.approx(expected_calibration_error(rows), abs=2 / FIXED_POINT)
    assert sum(row.decisions for row in found.calibration) == len(rows)
    for row in found.calibration:
        inside = tenths(p) == round(row.low * 10)
        assert row.observed.value == pytest.approx(float(y[inside].mean()))
        assert row.predicted == pytest.approx(float(p[inside].mean()), abs=2 / FIXED_POINT)


@given(PAIRS, PAIRS)
def test_windows_add_up_and_corrections_take_away(some: list[Pair], more: list[Pair]) -> None:
    """Two windows give the figures of all rows; what is taken away again leaves those of the rest."""
    both = tallied(some)
    both.add(tallied(more))
    assert reported(both) == reported(tallied(some + more))
    both.add(tallied(more, sign=-1))
    assert reported(both) == reported(tallied(some))
