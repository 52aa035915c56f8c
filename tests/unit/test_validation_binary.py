"""Probabilities held against outcomes: every metric against scikit-learn, scipy or the rows themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit
from sklearn import metrics

from monitoring.validation.binary import BinaryStatistics, binary_report
from monitoring.validation.estimates import Estimate, Quality, area_under_curve, mean, quality, wilson
from services.runtime.errors import InvalidArgument

Pairs = tuple[NDArray[np.float64], NDArray[np.float64]]


def pairs(n: int, seed: int = 0) -> Pairs:
    chance = np.random.default_rng(seed)
    odds = chance.normal(0.4, 1.5, n)
    return expit(1.3 * odds), (chance.random(n) < expit(odds)).astype(np.float64)


labelled = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60)


def of(rows: list[tuple[float, float]], bins: int = 256) -> BinaryStatistics:
    return BinaryStatistics.of(np.array([p for p, _ in rows]), np.array([y for _, y in rows]), bins)


@settings(deadline=None)
@given(labelled)
def test_metrics_are_those_of_scikit_learn(rows: list[tuple[float, float]]) -> None:
    """Accuracy, precision, recall, F1, log loss, Brier score, and the confusion matrix."""
    p, y = np.array([p for p, _ in rows]), np.array([y for _, y in rows])
    report = binary_report(of(rows))
    said = p >= 0.5
    matrix = metrics.confusion_matrix(y, said, labels=[0, 1])
    found = [report.true_negatives, report.false_positives, report.false_negatives, report.true_positives]
    assert found == matrix.ravel().tolist()
    assert report.accuracy is not None
    assert report.accuracy.value == pytest.approx(metrics.accuracy_score(y, said))
    for name, theirs in (("precision", metrics.precision_score), ("recall", metrics.recall_score)):
        ours: Estimate | None = getattr(report, name)
        assert (ours.value if ours else 0.0) == pytest.approx(theirs(y, said, zero_division=0))
    assert (report.f1.value if report.f1 else 0.0) == pytest.approx(metrics.f1_score(y, said, zero_division=0))
    assert report.brier is not None
    assert report.brier.value == pytest.approx(metrics.brier_score_loss(y, p, pos_label=1, labels=[0, 1]))
    assert report.log_loss is not None
    clipped = np.clip(p, 1e-15, 1 - 1e-15)
    assert report.log_loss.value == pytest.approx(-np.mean(np.where(y == 1, np.log(clipped), np.log1p(-clipped))))


@settings(deadline=None)
@given(labelled, st.sampled_from([2, 20, 256]))
def test_the_auc_from_bins_is_wrong_by_no_more_than_it_says(rows: list[tuple[float, float]], bins: int) -> None:
    """The exact AUC lies within the bound, and within the interval."""
    y = [y for _, y in rows]
    assume(0 < sum(y) < len(y))
    report = binary_report(of(rows, bins))
    exact = metrics.roc_auc_score(y, [p for p, _ in rows])
    assert report.auc is not None
    assert abs(report.auc.value - exact) <= report.auc_error_bound + 1e-12
    assert report.auc.low - 1e-12 <= exact <= report.auc.high + 1e-12


def test_the_variance_of_the_auc_is_delongs() -> None:
    """From the rows: variances of the placements of either class."""
    p, y = pairs(800)
    p = np.floor(p * 256) / 256
    above, below = p[y == 1], p[y == 0]
    wins = (above[:, None] > below[None, :]) + 0.5 * (above[:, None] == below[None, :])
    variance = np.var(wins.mean(axis=1), ddof=1) / len(above) + np.var(wins.mean(axis=0), ddof=1) / len(below)
    report = binary_report(BinaryStatistics.of(p, y))
    assert report.auc is not None
    half = stats.norm.ppf(0.975) * math.sqrt(variance) + report.auc_error_bound
    assert report.auc.value == pytest.approx(wins.mean())
    assert report.auc.high - report.auc.value == pytest.approx(half)


def test_a_perfect_auc_of_few_is_not_said_to_be_certain() -> None:
    """DeLong's variance is 0 there; the interval is not."""
    found = area_under_curve(np.array([0.0, 5.0]), np.array([5.0, 0.0]))
    assert found is not None
    assert found[0].value == 1
    assert found[0].low < 0.95


@given(st.integers(0, 300), st.integers(1, 300))
def test_wilsons_interval_is_scipys(hits: int, more: int) -> None:
    """At the ends too."""
    trials = hits + more - 1
    assume(trials > 0)
    ours = wilson(hits, trials)
    theirs = stats.binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert ours is not None
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)
    assert ours.low <= ours.value <= ours.high


def test_intervals_hold_what_they_promise() -> None:
    """Over 300 samples of 400, the true values lie in the intervals of 95 % about as often as that."""
    truth = binary_report(BinaryStatistics.of(*pairs(2_000_000, 10**6)))
    names = ("accuracy", "precision", "recall", "f1", "auc", "brier", "log_loss")
    held = dict.fromkeys(names, 0)
    for seed in range(300):
        report = binary_report(BinaryStatistics.of(*pairs(400, seed)))
        for name in names:
            found: Estimate = getattr(report, name)
            held[name] += found.low <= getattr(truth, name).value <= found.high
    # 300 draws of 0.95 lie above 0.91 but for one in a thousand.
    assert {name for name, hits in held.items() if hits < 0.91 * 300} == set()


@settings(deadline=None)
@given(labelled)
def test_the_parts_of_the_brier_score_sum_to_it(rows: list[tuple[float, float]]) -> None:
    """Reliability - resolution + uncertainty + what lies within bins."""
    report = binary_report(of(rows, 20))
    assert report.brier is not None
    assert report.brier_parts is not None
    parts = report.brier_parts
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert total == pytest.approx(report.brier.value)
    assert min(parts.reliability, parts.resolution, parts.uncertainty) >= 0


@settings(deadline=None)
@given(labelled, st.sampled_from([20, 256]))
def test_the_calibration_error_is_that_of_the_rows(rows: list[tuple[float, float]], bins: int) -> None:
    """Over the rows of the table: mean distance of mean prediction and frequency, each row by its decisions."""
    p, y = np.array([p for p, _ in rows]), np.array([y for _, y in rows])
    places = np.minimum((p * bins).astype(int), bins - 1)
    found = binary_report(of(rows, bins))
    gap = 0.0
    for row in found.calibration:
        inside = (places >= round(row.low * bins)) & (places < round(row.high * bins))
        assert row.decisions == inside.sum()
        assert (row.predicted, row.observed.value) == pytest.approx((p[inside].mean(), y[inside].mean()))
        gap += abs(p[inside].mean() - y[inside].mean()) * inside.sum()
    assert sum(row.decisions for row in found.calibration) == len(rows)
    assert found.expected_calibration_error == pytest.approx(gap / len(rows), abs=1e-12)


def test_calibration_is_read_off_the_table() -> None:
    """A model that always says 0.75 of what happens in half of the cases is off by 0.25."""
    report = binary_report(BinaryStatistics.of(np.full(400, 0.75), np.tile([0.0, 1.0], 200)))
    assert report.expected_calibration_error == pytest.approx(0.25)
    (row,) = report.calibration
    assert (row.decisions, row.predicted, row.observed.value) == (400, 0.75, 0.5)
    assert row.low <= 0.75 < row.high
    p, y = pairs(50_000)
    calibrated = binary_report(BinaryStatistics.of(expit(np.log(p / (1 - p)) / 1.3), y))
    assert calibrated.expected_calibration_error < 0.01


@settings(deadline=None)
@given(labelled, labelled, labelled)
def test_statistics_can_be_added_up_in_any_order(
    a: list[tuple[float, float]], b: list[tuple[float, float]], c: list[tuple[float, float]]
) -> None:
    """Associative, commutative, equal to those of all rows together, with the empty ones as identity."""

    def close(left: BinaryStatistics, right: BinaryStatistics) -> bool:
        assert left.decisions == right.decisions
        names = ("counts", "predictions", "outcomes", "log_loss", "brier", "log_loss_squares", "brier_squares")
        return all(np.allclose(getattr(left, name), getattr(right, name)) for name in names)

    assert close(of(a).merge(of(b)).merge(of(c)), of(a).merge(of(b).merge(of(c))))
    assert close(of(a).merge(of(b)), of(b).merge(of(a)))
    assert close(of(a).merge(of(b)), of(a + b))
    assert close(of(a).merge(of([])), of(a))
    assert close(BinaryStatistics.from_bytes(of(a).to_bytes()), of(a))


@pytest.mark.parametrize(
    ("p", "y"), [([0.5, math.nan], [1, 1]), ([1.1], [1]), ([-0.1], [0]), ([0.5], [0.5]), ([0.5], [math.nan])]
)
def test_what_is_no_probability_or_no_label_is_refused(p: list[float], y: list[float]) -> None:
    """NaN scores, labels that are neither 0 nor 1."""
    with pytest.raises(InvalidArgument):
        BinaryStatistics.of(np.array(p), np.array(y))


def test_statistics_that_do_not_fit_are_refused() -> None:
    """Different numbers of bins; an odd one, in which 0.5 is no edge; damaged bytes; different lengths."""
    with pytest.raises(InvalidArgument, match="merged"):
        of([(0.5, 1.0)], 20).merge(of([(0.5, 1.0)], 256))
    with pytest.raises(InvalidArgument, match="even"):
        of([(0.5, 1.0)], 5)
    with pytest.raises(InvalidArgument, match="not a state"):
        BinaryStatistics.from_bytes(b"TDS1")
    with pytest.raises(InvalidArgument, match="one outcome"):
        BinaryStatistics.of(np.array([0.5]), np.array([1.0, 0.0]))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_only_leaves_out_what_cannot_be_said(label: float) -> None:
    """No AUC; precision or recall where it has a meaning."""
    report = binary_report(BinaryStatistics.of(np.full(100, 0.2), np.full(100, label)))
    assert report.auc is None
    assert math.isnan(report.auc_error_bound)
    assert report.precision is None
    assert (report.recall is None) == (label == 0)


def test_nothing_at_all_gives_a_report_of_nothing() -> None:
    """No division by the number of decisions."""
    report = binary_report(of([]))
    assert report.accuracy is report.auc is report.brier is None
    assert report.brier_parts is None
    assert report.calibration == ()
    assert report.quality is Quality.NOT_ENOUGH_DATA


@pytest.mark.parametrize(
    ("hits", "trials", "level"),
    [
        (960, 1_000, Quality.EXCELLENT),
        (949, 1_000, Quality.GOOD),
        (850, 1_000, Quality.GOOD),
        (849, 1_000, Quality.ACCEPTABLE),
        (699, 1_000, Quality.POOR),
        (29, 29, Quality.NOT_ENOUGH_DATA),
        (27, 30, Quality.NOT_ENOUGH_DATA),
        (30, 30, Quality.EXCELLENT),
    ],
)
def test_levels_are_those_of_the_declared_shares(hits: int, trials: int, level: Quality) -> None:
    """95, 85 and 70 %; none under 30 decisions, or where the interval leaves three levels open."""
    assert quality(wilson(hits, trials), trials) is level


def test_a_mean_without_its_squares_has_no_interval() -> None:
    """And then no level can be named."""
    found = mean(100, 90.0, math.nan)
    assert found is not None
    assert math.isnan(found.low)
    assert quality(found, 100) is Quality.NOT_ENOUGH_DATA
    assert mean(0, 0.0, 0.0) is None
