"""Online monitors of outcomes: concept drift, performance, rates, and all of an arm together."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit

from bentos import dispatch
from bentos.family import TargetKind
from bentos.thresholds import Thresholds
from monitoring.drift.binning import Kind
from monitoring.drift.classic import Classic, ClassicDetector
from monitoring.drift.concept import ConceptMonitor, ConceptSettings
from monitoring.drift.monitor import SHARES, ArmMonitor, Batch, Watched
from monitoring.drift.performance import PerformanceMonitor
from monitoring.drift.rates import RateMonitor, RateSettings
from monitoring.drift.recalibration import Recalibration, tallied
from monitoring.drift.results import Aspect, Verdict
from services.runtime.errors import InvalidArgument

Pairs = tuple[NDArray[np.float64], NDArray[np.float64]]
CONCEPT = ConceptSettings(alpha=0.01, tolerance=0.02, reference=2_000, minimum=200)
THRESHOLDS = Thresholds(reference_decisions=2_000)


def pairs(n: int, seed: int, *, inputs: float = 0.0, outcome: float = 0.0, slope: float = 1.0) -> Pairs:
    """Answers of an overconfident model and outcomes; `inputs` shifts the former, the others what follows from them."""
    chance = np.random.default_rng(seed)
    odds = chance.normal(0.3 + inputs, 1.2, n)
    return expit(1.5 * odds - 0.2), (chance.random(n) < expit(slope * odds + outcome)).astype(np.float64)


@pytest.mark.parametrize("change", [{"outcome": 1.0}, {"outcome": -1.0}, {"slope": 0.0}, {"slope": 3.0}])
def test_a_change_of_what_follows_is_concept_drift(change: dict[str, float]) -> None:
    """Outcomes become more frequent, rarer, independent of the prediction, or follow it more strictly."""
    monitor = ConceptMonitor(CONCEPT)
    monitor.update(*pairs(4_000, 0))
    assert monitor.results()[0].verdict is Verdict.OK
    monitor.update(*pairs(4_000, 1, **change))
    found = monitor.results()[0]
    assert found.verdict is Verdict.DRIFT
    assert found.raised_at is not None
    assert found.raised_at > 4_000
    assert found.effect > CONCEPT.tolerance


@pytest.mark.parametrize("inputs", [-1.0, 1.0])
def test_a_change_of_the_inputs_is_not(inputs: float) -> None:
    """Other cases come, with another error rate, but what follows from a prediction stays."""
    monitor = ConceptMonitor(CONCEPT)
    monitor.update(*pairs(4_000, 0))
    monitor.update(*pairs(20_000, 1, inputs=inputs))
    assert monitor.results()[0].verdict is Verdict.OK


def test_concept_needs_labels_for_a_verdict() -> None:
    """During the reference and shortly after it there is none."""
    monitor = ConceptMonitor(CONCEPT)
    monitor.update(*pairs(2_100, 0))
    assert monitor.results()[0].verdict is Verdict.NOT_ENOUGH_DATA


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_only_is_no_drift(label: float) -> None:
    """A family in which everything succeeds, or nothing."""
    monitor = ConceptMonitor(CONCEPT)
    monitor.update(np.full(6_000, 0.5), np.full(6_000, label))
    assert monitor.results()[0].verdict is Verdict.OK


@pytest.mark.parametrize(("probability", "outcome"), [(math.nan, 1.0), (1.5, 0.0), (0.5, 0.5), (0.5, math.nan)])
def test_pairs_that_are_none_are_refused_and_change_nothing(probability: float, outcome: float) -> None:
    """NaN scores, outcomes other than 0 and 1."""
    monitor = ConceptMonitor(CONCEPT)
    before = monitor.to_bytes()
    with pytest.raises(InvalidArgument):
        monitor.update(np.array([0.5, probability]), np.array([1.0, outcome]))
    assert monitor.to_bytes() == before


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 4_000))
def test_a_restored_concept_monitor_goes_on_as_before(cut: int) -> None:
    """Stopped in the reference, or while a drift builds up."""
    p, y = (np.concatenate(both) for both in zip(pairs(2_500, 0), pairs(1_500, 1, outcome=1.0), strict=True))
    straight, stopped = ConceptMonitor(CONCEPT), ConceptMonitor(CONCEPT)
    for monitor in (straight, stopped):
        monitor.update(p[:cut], y[:cut])
    restored = ConceptMonitor.from_bytes(stopped.to_bytes())
    for monitor in (straight, restored):
        monitor.update(p[cut:], y[cut:])
    assert restored.to_bytes() == straight.to_bytes()


def test_the_map_learns_what_probabilities_mean() -> None:
    """Its band holds the true frequency almost everywhere, and is narrow where there are labels."""
    p, y = pairs(20_000, 0)
    grid = expit(1.5 * np.linspace(-1.5, 2.0, 50) - 0.2)
    low, middle, high = Recalibration(tallied(p, y)).band(grid)
    truth = expit(np.linspace(-1.5, 2.0, 50))
    assert np.mean((low <= truth) & (truth <= high)) > 0.95
    assert np.abs(middle - truth).max() < 0.04


def test_a_loss_of_accuracy_is_found_and_a_gain_is_none() -> None:
    """Brier score and error rate; better answers raise nothing."""
    for slope, expected in ((-1.0, Verdict.DRIFT), (3.0, Verdict.OK)):
        monitor = PerformanceMonitor(THRESHOLDS, 0.01, probabilities=True)
        monitor.update(*pairs(3_000, 0))
        monitor.update(*pairs(3_000, 1, slope=slope))
        assert {result.verdict for result in monitor.results()} == {expected}
        assert [result.subject for result in monitor.results()] == ["error rate", "Brier score"]


def test_numbers_have_an_absolute_error() -> None:
    """Errors twice as large are a degradation; nothing is said before the reference is complete."""
    chance = np.random.default_rng(0)
    monitor = PerformanceMonitor(THRESHOLDS, 0.01, probabilities=False)
    truth = chance.normal(100, 10, 8_000)
    monitor.update(truth[:1_000] + chance.normal(size=1_000), truth[:1_000])
    assert monitor.results() == ()
    monitor.update(truth[:4_000] + chance.normal(size=4_000), truth[:4_000])
    assert [result.verdict for result in monitor.results()] == [Verdict.OK]
    monitor.update(truth + chance.normal(0, 2, 8_000), truth)
    assert [result.verdict for result in monitor.results()] == [Verdict.DRIFT]


def test_rates_refuse_what_is_no_rate() -> None:
    """Values and limits are in [0, 1]."""
    settings_ = RateSettings(aspect=Aspect.RATE, alpha=0.01, minimum=10)
    with pytest.raises(InvalidArgument, match="limit"):
        RateMonitor(["x"], [1.0], settings_)
    monitor = RateMonitor(["x"], [0.1], settings_)
    with pytest.raises(InvalidArgument, match="from 0 to 1"):
        monitor.update(np.array([[1.5]]))
    with pytest.raises(InvalidArgument, match="1 columns"):
        monitor.update(np.zeros((3, 2)))


def test_losses_between_0_and_1_and_unknown_ones_are_watched_too() -> None:
    """A mean of 0.3 is under the limit of 0.35; one of 0.5 is not; NaN does not count."""
    monitor = RateMonitor(["x"], [0.35], RateSettings(aspect=Aspect.RATE, alpha=0.01, minimum=10))
    chance = np.random.default_rng(0)
    values = 0.6 * chance.random((4_000, 1))
    values[::3] = np.nan
    monitor.update(values)
    assert monitor.results()[0].verdict is Verdict.OK
    assert monitor.results()[0].effect == pytest.approx(0.3, abs=0.03)
    monitor.update(chance.random((2_000, 1)))
    assert monitor.results()[0].verdict is Verdict.DRIFT


WATCHED = Watched(("a", "b"), (Kind.NUMBER, Kind.NUMBER), TargetKind.BINARY)


def batch(n: int, seed: int) -> Batch:
    chance = np.random.default_rng(seed)
    scores = expit(chance.normal(2, 1, n))
    none = np.zeros(n, np.bool_)
    rows = chance.standard_normal((n, 2)).astype(np.float32)
    return Batch(rows=rows, scores=scores, confidences=scores, fallback=none, failed=none, violations=none)


def arm(target: TargetKind = TargetKind.BINARY) -> ArmMonitor:
    thresholds = dataclasses.replace(THRESHOLDS, low_confidence_rate=0.5)
    return ArmMonitor(dataclasses.replace(WATCHED, target=target), thresholds, seed=7)


def test_the_false_alarm_rate_is_shared_out_whole() -> None:
    """No more than was declared, and nothing is left over; every aspect has a share."""
    assert sum(SHARES.values()) == pytest.approx(1.0)
    assert set(SHARES) == set(Aspect)


def test_an_arm_that_is_well_raises_nothing_and_names_every_aspect() -> None:
    """All aspects have results once there are decisions and labels."""
    monitor = arm()
    for seed in range(12):
        monitor.update(batch(500, seed))
        monitor.label(*pairs(500, seed))
    assert {result.aspect for result in monitor.results()} == set(Aspect)
    assert Verdict.DRIFT not in {result.verdict for result in monitor.results()}


def test_an_arm_that_fails_falls_back_and_doubts_says_so() -> None:
    """Each rate by its own name; scores of failed calls are not known."""
    monitor = arm()
    sick = batch(2_000, 0)
    failed = np.arange(2_000) % 5 == 0
    scores = np.where(failed, np.nan, sick.scores)
    monitor.update(dataclasses.replace(sick, failed=failed, fallback=failed, scores=scores, confidences=scores / 4))
    raised = {result.subject for result in monitor.results() if result.verdict is Verdict.DRIFT}
    assert raised == {"fallback rate", "low-confidence rate", "error rate of calls"}


def test_numbers_have_concept_drift_in_their_residuals() -> None:
    """A bias that was not there."""
    monitor = arm(TargetKind.NUMBER)
    chance = np.random.default_rng(0)
    for bias in (0.0, 0.0, 0.0, 0.5):
        truth = chance.normal(50, 20, 1_500)
        monitor.label(truth + chance.normal(bias, 1, 1_500), truth)
    assert Aspect.CONCEPT in {result.aspect for result in monitor.results() if result.verdict is Verdict.DRIFT}


@pytest.mark.parametrize("target", list(TargetKind))
def test_a_restored_arm_goes_on_as_before(target: TargetKind) -> None:
    """Its whole state is in its bytes."""
    straight, stopped = arm(target), arm(target)
    for seed in range(6):
        for monitor in (straight, stopped):
            monitor.update(batch(500, seed))
            monitor.label(*pairs(500, seed))
        stopped = ArmMonitor.from_bytes(stopped.to_bytes(), stopped.watched, stopped.thresholds)
    assert stopped.to_bytes() == straight.to_bytes()
    assert stopped.results() == straight.results()


def test_state_of_other_features_is_refused() -> None:
    """A family that got a feature begins a new reference."""
    other = Watched(("a", "c"), WATCHED.kinds, WATCHED.target)
    with pytest.raises(InvalidArgument, match="other features"):
        ArmMonitor.from_bytes(arm().to_bytes(), other, THRESHOLDS)
    with pytest.raises(InvalidArgument, match="not a state"):
        ArmMonitor.from_bytes(arm().to_bytes()[:-1], WATCHED, THRESHOLDS)


def test_a_batch_whose_arrays_do_not_fit_is_refused_and_changes_nothing() -> None:
    """One score too few, or a feature too many."""
    monitor = arm()
    before = monitor.to_bytes()
    good = batch(10, 0)
    for wrong in ({"scores": good.scores[1:]}, {"rows": np.zeros((10, 3), np.float32)}):
        with pytest.raises(InvalidArgument):
            monitor.update(dataclasses.replace(good, **wrong))
    assert monitor.to_bytes() == before


def test_a_family_is_watched_from_its_declaration_alone() -> None:
    """Every feature of the dispatch family, with the limits that it declares."""
    watched = Watched.of(dispatch.FAMILY)
    assert watched.names == dispatch.FAMILY.schema.names
    assert watched.kinds.count(Kind.CATEGORY) == 1
    assert dispatch.FAMILY.thresholds.accuracy == 0.90
    assert ArmMonitor(watched, dispatch.FAMILY.thresholds, seed=1).results()


@pytest.mark.parametrize(
    "wrong", [{"null_rate": 1.5}, {"false_alarm_rate": 0.0}, {"minimum_decisions": 3}, {"accuracy": math.nan}]
)
def test_thresholds_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    """The error names the field and its range."""
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))}.* must be from"):
        Thresholds(**wrong)  # type: ignore[arg-type]  # whole numbers stand among the fields


@pytest.mark.parametrize("kind", list(Classic))
def test_classic_detectors_notice_a_rise_and_survive_their_bytes(kind: Classic) -> None:
    """Errors rise from a tenth to a half; a restored detector knows what came since the last change."""
    chance = np.random.default_rng(0)
    detector = ClassicDetector(kind)
    assert detector.update((chance.random(2_000) < 0.1).astype(float)) == 0
    detector = ClassicDetector.from_bytes(detector.to_bytes())
    assert detector.update((chance.random(1_000) < 0.5).astype(float)) >= 1
    assert detector.last_change is not None
    assert 2_000 < detector.last_change < 2_500
    with pytest.raises(InvalidArgument, match="finite"):
        detector.update(np.array([np.nan]))
