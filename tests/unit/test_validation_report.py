"""Numbers, rankings, the estimate without labels, and the whole report."""

from __future__ import annotations

import dataclasses
import functools
import math
import random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from sklearn import metrics

from bentos.thresholds import Thresholds
from monitoring.drift.results import Aspect, DriftResult, Verdict, Window
from monitoring.drift.summaries import NumberSummary
from monitoring.validation.binary import BinaryReport, BinaryStatistics, binary_report
from monitoring.validation.estimates import Quality
from monitoring.validation.label_free import Unlabelled, expected_performance
from monitoring.validation.numbers import NumberReport, NumberStatistics, number_report
from monitoring.validation.rankings import RankingReport, RankingStatistics, ndcg, ndcg_of_scores, ranking_report
from monitoring.validation.report import VariantWindow, accuracy_change, degraded, full_report
from services.runtime.errors import InvalidArgument

Pairs = tuple[NDArray[np.float64], NDArray[np.float64]]
THRESHOLDS = Thresholds(accuracy=0.9)
values = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=50)


def pairs(n: int, seed: int = 0, *, inputs: float = 0.0, outcome: float = 0.0) -> Pairs:
    chance = np.random.default_rng(seed)
    odds = chance.normal(0.5 + inputs, 1.5, n)
    return expit(1.4 * odds - 0.2), (chance.random(n) < expit(odds + outcome)).astype(np.float64)


def unlabelled(statistics: BinaryStatistics) -> Unlabelled:
    return Unlabelled(counts=statistics.counts, predictions=statistics.predictions)


@given(values)
def test_errors_of_numbers_are_those_of_scikit_learn(rows: list[tuple[float, float]]) -> None:
    """MAE, RMSE, bias and R²."""
    p, y = np.array([p for p, _ in rows]), np.array([y for _, y in rows])
    assume(np.ptp(y) > 1e-3)
    report = number_report(NumberStatistics.of(p, y))
    assert report.mean_absolute_error is not None
    assert report.root_mean_squared_error is not None
    assert report.bias is not None
    assert report.mean_absolute_error.value == pytest.approx(metrics.mean_absolute_error(y, p))
    assert report.root_mean_squared_error.value == pytest.approx(metrics.root_mean_squared_error(y, p))
    assert report.bias.value == pytest.approx(np.mean(p - y), abs=1e-9)
    assert report.explained_variance == pytest.approx(metrics.r2_score(y, p), rel=1e-4)


@given(values, values)
def test_statistics_of_numbers_can_be_added_up(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> None:
    """In any order, equal to those of all rows, with the empty ones as identity."""

    def of(rows: list[tuple[float, float]]) -> NumberStatistics:
        return NumberStatistics.of(np.array([p for p, _ in rows]), np.array([y for _, y in rows]))

    def numbers(statistics: NumberStatistics) -> list[float]:
        return [float(value) for value in dataclasses.astuple(statistics)]

    assert numbers(of(a).merge(of(b))) == pytest.approx(numbers(of(a + b)))
    assert numbers(of(a).merge(of(b))) == numbers(of(b).merge(of(a)))
    assert of(a).merge(NumberStatistics()) == of(a)


def test_intervals_of_predictions_are_counted_where_there_are_any() -> None:
    """Two of three hold the outcome; the fourth prediction came without."""
    low, high = np.array([0.0, 0.0, 0.0, np.nan]), np.array([2.0, 2.0, 0.5, np.nan])
    report = number_report(NumberStatistics.of(np.ones(4), np.ones(4), low, high))
    assert report.coverage is not None
    assert report.coverage.value == pytest.approx(2 / 3)
    assert number_report(NumberStatistics.of(np.ones(4), np.ones(4))).coverage is None


def test_intervals_of_errors_hold_what_they_promise() -> None:
    """Of 300 samples of 400, about 95 % hold the true bias, MAE and RMSE of normal errors."""
    held = np.zeros(3)
    for seed in range(300):
        chance = np.random.default_rng(seed)
        y = chance.normal(100, 10, 400)
        report = number_report(NumberStatistics.of(y + chance.normal(0.5, 2, 400), y))
        truth = (0.5, 1.6449, math.sqrt(4.25))
        found = (report.bias, report.mean_absolute_error, report.root_mean_squared_error)
        held += [e is not None and e.low <= t <= e.high for e, t in zip(found, truth, strict=True)]
    assert np.all(held > 0.91 * 300)


def test_the_level_of_numbers_is_that_of_their_closeness() -> None:
    """Errors of a tenth of the outcome are good; without outcomes nothing is said."""
    y = np.linspace(50, 150, 1_000)
    assert number_report(NumberStatistics.of(y * 1.1, y)).quality is Quality.GOOD
    empty = number_report(NumberStatistics())
    assert empty.quality is Quality.NOT_ENOUGH_DATA
    assert empty.root_mean_squared_error is None
    perfect = number_report(NumberStatistics.of(y, y)).root_mean_squared_error
    assert perfect is not None
    assert perfect.value == perfect.low == perfect.high == 0
    with pytest.raises(InvalidArgument, match="finite"):
        NumberStatistics.of(np.array([math.nan]), np.array([1.0]))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=12), st.integers(1, 12))
def test_ndcg_is_scikit_learns(relevance: list[int], places: int) -> None:
    """Linear gain, best first, over the first places; undefined when nothing was relevant."""
    found = ndcg(relevance, places)
    if not any(relevance):
        assert math.isnan(found)
    else:
        scores = np.arange(len(relevance), 0, -1)
        assert found == pytest.approx(metrics.ndcg_score([relevance], [scores], k=places))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=2, max_size=12), st.integers(1, 14), st.randoms()
)
def test_ndcg_of_scores_is_scikit_learns(rows: list[tuple[int, int]], places: int, chance: random.Random) -> None:
    """Candidates with the same score share what their places are worth, in whatever order they are given."""
    scores, relevance = [float(score) for score, _ in rows], [float(gain) for _, gain in rows]
    found = ndcg_of_scores(scores, relevance, places)
    if not any(relevance):
        assert math.isnan(found)
        return
    assert found == pytest.approx(metrics.ndcg_score([relevance], [scores], k=places))
    shuffled = list(zip(scores, relevance, strict=True))
    chance.shuffle(shuffled)
    assert ndcg_of_scores([s for s, _ in shuffled], [g for _, g in shuffled], places) == found


def test_a_negative_relevance_is_refused() -> None:
    """By name."""
    with pytest.raises(InvalidArgument, match="at least 0"):
        ndcg_of_scores([0.5, 0.1], [1.0, -1.0], 2)


def test_rankings_add_up() -> None:
    """The mean of the rankings that have one, in whatever parts they came."""
    found = [0.9, math.nan, 0.8, 1.0] * 20
    whole = RankingStatistics()
    for value in found:
        whole = whole.add(value)
    half = RankingStatistics()
    for value in found[:40]:
        half = half.add(value)
    report, merged = ranking_report(whole), ranking_report(half.merge(half))
    assert merged.ndcg is not None
    assert report.rankings == 60
    assert report.ndcg is not None
    assert report.ndcg.value == pytest.approx(0.9)
    assert dataclasses.astuple(merged.ndcg) == pytest.approx(dataclasses.astuple(report.ndcg))
    assert report.quality is Quality.GOOD
    with pytest.raises(InvalidArgument, match="at least 0"):
        ndcg([1.0, -1.0])


@pytest.mark.parametrize(("bins", "samples"), [(20, 100), (256, 30)])
def test_what_is_expected_without_labels_comes_true(bins: int, samples: int) -> None:
    """For a miscalibrated model on other inputs, about 95 % of the intervals hold what the labels then show."""
    names = ("accuracy", "precision", "recall", "f1", "auc", "brier")
    held = dict.fromkeys(names, 0)
    for seed in range(samples):
        past = BinaryStatistics.of(*pairs(4_000, seed), bins)
        now = BinaryStatistics.of(*pairs(2_000, 1_000 + seed, inputs=0.5), bins)
        found = expected_performance(past, unlabelled(now))
        assert found.expected is not None
        truth = binary_report(now)
        for name in names:
            estimate = getattr(found.expected, name)
            held[name] += estimate.low <= getattr(truth, name).value <= estimate.high
    assert {name for name, hits in held.items() if hits < 0.86 * samples} == set()


def test_intervals_without_labels_know_how_much_the_past_moved() -> None:
    """Where success rises and falls from day to day, intervals that are told the days hold; the others do not."""
    told, untold = 0, 0
    for seed in range(60):
        chance = np.random.default_rng(seed)
        shifts = chance.normal(0.0, 0.4, 15)
        *days, now = (
            BinaryStatistics.of(*pairs(400, int(chance.integers(1 << 30)), inputs=1.5, outcome=shift), 20)
            for shift in shifts
        )
        past = functools.reduce(BinaryStatistics.merge, days)
        truth = binary_report(now).accuracy
        with_days = expected_performance(past, unlabelled(now), blocks=days).expected
        without = expected_performance(past, unlabelled(now)).expected
        assert truth is not None
        assert with_days is not None
        assert without is not None
        assert with_days.accuracy.value == without.accuracy.value
        told += with_days.accuracy.low <= truth.value <= with_days.accuracy.high
        untold += without.accuracy.low <= truth.value <= without.accuracy.high
    assert told >= 0.88 * 60
    assert untold <= 0.8 * 60


def test_a_past_that_stands_still_does_not_widen_the_interval() -> None:
    """Days that differ by chance only, or too few of them, leave it within a quarter of what it was."""
    days = [BinaryStatistics.of(*pairs(400, seed), 20) for seed in range(20)]
    past = functools.reduce(BinaryStatistics.merge, days)
    now = unlabelled(BinaryStatistics.of(*pairs(2_000, 99), 20))
    plain = expected_performance(past, now).expected
    assert plain is not None
    for blocks, factor in ((days, 1.25), (days[:3], 1.0)):
        found = expected_performance(past, now, blocks=blocks).expected
        assert found is not None
        width = found.accuracy.high - found.accuracy.low
        assert 1.0 <= width / (plain.accuracy.high - plain.accuracy.low) <= factor


def test_without_labels_confusion_sums_to_the_decisions() -> None:
    """Each decision is expected in one of the four places."""
    past = BinaryStatistics.of(*pairs(4_000))
    found = expected_performance(past, unlabelled(past)).expected
    assert found is not None
    total = found.true_positives + found.false_positives + found.true_negatives + found.false_negatives
    assert total == pytest.approx(found.decisions)


def test_an_estimate_whose_assumption_is_violated_is_not_given() -> None:
    """Each violation by its own reason."""
    past, now = BinaryStatistics.of(*pairs(4_000)), unlabelled(BinaryStatistics.of(*pairs(2_000, 1)))
    changed = BinaryStatistics.of(*pairs(2_000, 2, outcome=-1.0))
    low = BinaryStatistics.of(np.full(1_000, 0.1), np.tile([0.0, 0.0, 0.0, 0.0, 1.0], 200))
    few = BinaryStatistics.of(*pairs(100))
    cases = (
        (expected_performance(few, now), "100 of the 500 labelled decisions that are needed"),
        (
            expected_performance(past, unlabelled(BinaryStatistics.of(*pairs(50)))),
            "50 of the 100 decisions without an outcome that are needed",
        ),
        (expected_performance(low, now), "where the labelled past has none"),
        (expected_performance(past, now, recent=changed), "on recently labelled decisions"),
        (expected_performance(past, now, concept=Verdict.DRIFT), "concept drift"),
        (expected_performance(past, now, outside=0.5), "outside of the reference's features"),
    )
    for found, reason in cases:
        assert not found.valid
        assert reason in " ".join(found.reasons)
    fine = expected_performance(past, now, recent=BinaryStatistics.of(*pairs(2_000, 3)), concept=Verdict.OK)
    assert fine.valid
    assert fine.reasons == ()
    with pytest.raises(InvalidArgument, match="same bins"):
        expected_performance(past, unlabelled(BinaryStatistics.of(*pairs(2_000), 20)))


def test_one_class_in_the_past_still_gives_an_estimate_or_a_reason() -> None:
    """Everything succeeded so far; nothing divides by the class that did not occur."""
    past = BinaryStatistics.of(pairs(2_000)[0], np.ones(2_000))
    found = expected_performance(past, unlabelled(past))
    assert found.valid or found.reasons


def test_a_fall_of_accuracy_between_windows_is_found() -> None:
    """With Newcombe's interval, corrected for looks; a small one is not, nor one from few labels."""
    past = BinaryStatistics.of(*pairs(5_000))
    worse = BinaryStatistics.of(*pairs(2_000, 1, outcome=-1.5))
    found = degraded(past, worse, THRESHOLDS, look=5)
    assert found is not None
    assert found.verdict is Verdict.DRIFT
    assert found.p_value <= found.false_alarm_rate
    same = degraded(past, BinaryStatistics.of(*pairs(2_000, 2)), THRESHOLDS, look=5)
    assert same is not None
    assert same.verdict is Verdict.OK
    few = degraded(past, BinaryStatistics.of(*pairs(50, 2)), THRESHOLDS, look=5)
    assert few is not None
    assert few.verdict is Verdict.NOT_ENOUGH_DATA
    assert degraded(past, BinaryStatistics.of(*pairs(0)), THRESHOLDS, look=5) is None
    change = accuracy_change(past, worse)
    assert change is not None
    assert change.low < change.value == -found.effect < change.high


def test_the_full_report_is_a_tree_of_every_kind_of_variant() -> None:
    """Probabilities, numbers and rankings in one report; what is missing is said, not made up."""
    past = BinaryStatistics.of(*pairs(4_000))
    p, y = pairs(1_000, 1)
    whole = Window(1_500, 0.0, 60.0)
    drift = DriftResult(
        aspect=Aspect.CONCEPT,
        subject="P(outcome | prediction)",
        test="a test",
        reference=whole,
        current=whole,
        measure="a measure",
        effect=0.2,
        limit=0.02,
        p_value=0.0,
        false_alarm_rate=0.01,
        verdict=Verdict.DRIFT,
        detail="changed",
    )
    binary = VariantWindow(
        variant="champion",
        window=whole,
        labelled=BinaryStatistics.of(p, y),
        score=NumberSummary.of(p),
        unlabelled=unlabelled(BinaryStatistics.of(*pairs(500, 2))),
        past=past,
    )
    drifted = dataclasses.replace(binary, drift=(drift,))
    numbers = VariantWindow(variant="eta", window=whole, labelled=NumberStatistics.of(p, y))
    ranked = VariantWindow(variant="rank", window=whole, labelled=RankingStatistics())
    report = full_report((binary, drifted, numbers, ranked), THRESHOLDS)
    first, second, third, fourth = report.variants
    assert isinstance(first.metrics, BinaryReport)
    assert isinstance(third.metrics, NumberReport)
    assert isinstance(fourth.metrics, RankingReport)
    assert first.label_free.valid
    assert first.score is not None
    assert first.score.known == 1_000
    assert dict(first.score.quantiles)[0.5] == pytest.approx(np.median(p), abs=0.03)
    assert first.accuracy_change is not None
    assert any("under its target" in note for note in first.notes)
    assert not second.label_free.valid
    assert second.drift == (drift,)
    assert "only probabilities" in third.label_free.reasons[0]
    assert fourth.quality is Quality.NOT_ENOUGH_DATA
    assert fourth.notes
