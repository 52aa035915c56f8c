"""Calibration, evaluation and thresholds: numbers that say how good answers are, or that nobody can know."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.training import calibration
from services.training.evaluation import binary, log_loss, numeric, reliability, shuffled
from services.training.thresholds import BestF1, Costs, PrecisionAtLeast, RecallAtLeast, recommend


def _drawn(seed: int, rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and outcomes that follow them."""
    random = np.random.default_rng(seed)
    probabilities = random.uniform(0.05, 0.95, rows)
    return probabilities, (random.random(rows) < probabilities).astype(np.float64)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 3.0), st.floats(-1.5, 1.5))
def test_calibration_never_makes_the_likelihood_worse(seed: int, slope: float, offset: float) -> None:
    """Whatever a model's distortion, the calibrated probabilities fit the rows at least as well, in the same order."""
    truth, outcomes = _drawn(seed, rows=600)
    distorted = calibration.sigmoid(slope * calibration.logit(truth) + offset)
    fitted = calibration.fit(distorted, outcomes)
    calibrated = fitted.apply(distorted)
    # Platt's smoothed targets trade a little likelihood for safety.
    assert log_loss(calibrated, outcomes) <= log_loss(distorted, outcomes) + 1e-3
    assert fitted.slope > 0.0
    assert (np.diff(calibrated[np.argsort(distorted)]) >= 0.0).all()


def test_calibration_undoes_a_known_distortion() -> None:
    """Probabilities bent by slope 2 and offset 1 are bent back by slope 1/2 and offset -1/2."""
    truth, outcomes = _drawn(3, rows=60_000)
    fitted = calibration.fit(calibration.sigmoid(2.0 * calibration.logit(truth) + 1.0), outcomes)
    assert fitted.slope == pytest.approx(0.5, abs=0.02)
    assert fitted.offset == pytest.approx(-0.5, abs=0.04)


def test_too_few_rows_are_not_calibrated_on() -> None:
    """With fewer than ten rows of a class, or a model that is right by being wrong, nothing is changed."""
    probabilities, outcomes = _drawn(1)
    assert calibration.fit(probabilities[:50], np.r_[np.ones(41), np.zeros(9)]) == calibration.IDENTITY
    assert calibration.fit(probabilities, 1.0 - outcomes) == calibration.IDENTITY
    assert calibration.fit(np.empty(0), np.empty(0)) == calibration.IDENTITY


def test_calibration_is_chosen_only_where_it_lasts() -> None:
    """A distortion that lasts is undone; one that is gone halfway is left alone."""
    truth, outcomes = _drawn(9)
    bent = calibration.sigmoid(2.0 * calibration.logit(truth) + 1.0)
    assert calibration.choose(bent, outcomes) == calibration.fit(bent, outcomes)
    half = len(truth) // 2
    gone = np.r_[calibration.sigmoid(calibration.logit(truth[:half]) + 1.0), truth[half:]]
    assert calibration.choose(gone, outcomes) == calibration.IDENTITY
    assert calibration.choose(np.empty(0), np.empty(0)) == calibration.IDENTITY


def test_binary_quality_of_a_small_table() -> None:
    """Three hits, one false yes, one false no and one right no, counted by hand."""
    quality = binary(np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.1]), np.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.0]))
    assert (quality.rows, quality.positives) == (6, 4)
    assert quality.accuracy == pytest.approx(4 / 6)
    assert quality.precision == pytest.approx(3 / 4)
    assert quality.recall == pytest.approx(3 / 4)
    assert quality.f1 == pytest.approx(3 / 4)
    assert quality.auc == pytest.approx(7 / 8)
    assert quality.brier == pytest.approx((0.01 + 0.04 + 0.09 + 0.36 + 0.36 + 0.01) / 6)
    assert quality.log_loss == pytest.approx(-np.mean(np.log([0.9, 0.8, 0.7, 0.4, 0.4, 0.9])))
    assert quality.note == ""


@pytest.mark.parametrize("outcomes", [np.empty(0), np.ones(5), np.zeros(5)])
def test_one_class_is_not_enough_data(outcomes: np.ndarray) -> None:
    """Without both outcomes there is no AUC, no recall and no calibration: None, and a note."""
    quality = binary(np.full(len(outcomes), 0.7), outcomes)
    assert quality.auc is None
    assert quality.log_loss is None
    assert quality.precision is None
    assert quality.note.startswith("not enough data")


def test_no_precision_without_a_yes() -> None:
    """When nothing reaches the threshold, precision is None and the rest is still measured."""
    quality = binary(np.array([0.1, 0.2, 0.3]), np.array([0.0, 1.0, 0.0]))
    assert quality.precision is None
    assert quality.recall == 0.0
    assert quality.auc == 0.5
    assert "no precision" in quality.note


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=60))
def test_the_reliability_curve_loses_no_row(rows: list[tuple[float, int]]) -> None:
    """Every row falls in one bin; bins are contiguous and hold what they claim."""
    probabilities, outcomes = np.array(rows, dtype=np.float64).T
    curve = reliability(probabilities, outcomes)
    assert sum(bar.rows for bar in curve) == len(rows)
    assert curve[0].low == 0.0
    assert curve[-1].high == 1.0
    for bar in curve:
        assert (bar.mean_probability is None) == (bar.rows == 0)
        if bar.mean_probability is not None:
            assert bar.low - 1e-9 <= bar.mean_probability <= bar.high + 1e-9


def test_numbers_have_their_own_quality() -> None:
    """Errors in the target's unit; R² is 1 for a perfect answer and unknown when all outcomes are equal."""
    outcomes = np.array([1.0, 2.0, 6.0])
    assert numeric(outcomes, outcomes).r_squared == 1.0
    assert numeric(outcomes + 2.0, outcomes).mean_absolute_error == 2.0
    assert numeric(outcomes, np.ones(3)).r_squared is None
    assert numeric(np.ones(1), np.ones(1)).note.startswith("not enough data")


def test_shuffling_moves_one_column_only() -> None:
    """The shuffled column keeps its values, all others keep their places."""
    rows = np.arange(300, dtype=np.float32).reshape(100, 3)
    mixed = shuffled(rows, 1, np.random.default_rng(0))
    np.testing.assert_array_equal(mixed[:, [0, 2]], rows[:, [0, 2]])
    np.testing.assert_array_equal(np.sort(mixed[:, 1]), rows[:, 1])
    assert (mixed[:, 1] != rows[:, 1]).any()


@pytest.mark.parametrize("goal", [BestF1(), RecallAtLeast(0.9), PrecisionAtLeast(0.8), Costs(3.0, 1.0)])
def test_a_recommendation_gives_what_it_promises(goal: BestF1 | RecallAtLeast | PrecisionAtLeast | Costs) -> None:
    """Precision and recall at the recommended threshold are those of the rows at or above it, and meet the goal."""
    probabilities, outcomes = _drawn(5)
    found = recommend(probabilities, outcomes, goal)
    assert found.threshold is not None
    quality = binary(probabilities, outcomes, threshold=found.threshold)
    assert found.precision == pytest.approx(quality.precision)
    assert found.recall == pytest.approx(quality.recall)
    match goal:
        case BestF1():
            assert quality.f1 is not None
            for other in np.linspace(0.05, 0.95, 50):
                assert quality.f1 >= (binary(probabilities, outcomes, threshold=other).f1 or 0.0)
        case RecallAtLeast(recall):
            assert found.recall is not None
            assert found.recall >= recall
        case PrecisionAtLeast(precision):
            assert found.precision is not None
            assert found.precision >= precision
        case Costs():
            assert found.threshold == 0.75


def test_no_recommendation_without_reason() -> None:
    """One class, or a precision that no cut reaches, gives no threshold and says why."""
    probabilities, outcomes = np.array([0.9, 0.8, 0.7]), np.array([0.0, 1.0, 0.0])
    assert recommend(probabilities, np.ones(3), BestF1()).why.startswith("not enough data")
    none = recommend(probabilities, outcomes, PrecisionAtLeast(0.9))
    assert none.threshold is None
    assert "0.500 is the most" in none.why
