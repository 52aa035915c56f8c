"""Online monitors of features: one by one, jointly, and the quality of the data."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from bentos.thresholds import Thresholds
from monitoring.drift.binning import WIDTH, Binning, Kind, counted
from monitoring.drift.distributions import DistributionMonitor, DistributionSettings
from monitoring.drift.joint import JointMonitor
from monitoring.drift.quality import QualityMonitor
from monitoring.drift.results import Aspect, DriftResult, Verdict
from services.runtime.errors import InvalidArgument

SETTINGS = DistributionSettings(aspect=Aspect.FEATURE, effect=0.05, alpha=0.01, reference=1_000, minimum=200, seed=3)
NAMES = ("a", "b", "c")
KINDS = (Kind.NUMBER, Kind.NUMBER, Kind.CATEGORY)


def rows(n: int, seed: int = 0, *, shift: float = 0.0) -> NDArray[np.float32]:
    """Two numbers, the second one sometimes missing, and a category of 4."""
    chance = np.random.default_rng(seed)
    found = np.column_stack((chance.normal(shift, 1, n), chance.exponential(size=n), chance.integers(0, 4, n)))
    found[chance.random(n) < 0.1, 1] = np.nan
    return found.astype(np.float32)


def monitor() -> DistributionMonitor:
    return DistributionMonitor(NAMES, KINDS, SETTINGS)


def verdicts(results: tuple[DriftResult, ...]) -> dict[str, Verdict]:
    return {result.subject: result.verdict for result in results}


def test_a_shifted_column_is_found_and_only_that_one() -> None:
    """Half a standard deviation in one of three columns."""
    watched = monitor()
    watched.update(rows(2_000))
    assert set(verdicts(watched.results()).values()) == {Verdict.OK}
    watched.update(rows(1_000, 1, shift=0.5))
    assert verdicts(watched.results()) == {"a": Verdict.DRIFT, "b": Verdict.OK, "c": Verdict.OK}
    found = watched.results()[0]
    assert found.p_value <= SETTINGS.alpha
    assert found.effect > SETTINGS.effect
    assert found.raised_at is not None
    assert 2_000 < found.raised_at <= 3_000


def test_more_missing_values_and_other_categories_are_shifts_too() -> None:
    """What is missing counts as a value; a category that takes over shows."""
    watched = monitor()
    watched.update(rows(2_000))
    later = rows(1_000, 1)
    later[::2, 1] = np.nan
    later[::2, 2] = 1
    watched.update(later)
    assert verdicts(watched.results()) == {"a": Verdict.OK, "b": Verdict.DRIFT, "c": Verdict.DRIFT}


def test_a_stream_that_is_well_again_is_said_to_be() -> None:
    """The verdict follows the stream back, and forgets when it was raised."""
    watched = monitor()
    watched.update(rows(2_000))
    watched.update(rows(1_000, 1, shift=1))
    watched.update(rows(3_000, 2))
    assert verdicts(watched.results())["a"] is Verdict.OK
    assert watched.results()[0].raised_at is None


def test_without_enough_decisions_there_is_no_verdict() -> None:
    """Neither during the reference nor shortly after it."""
    watched = monitor()
    assert set(verdicts(watched.results()).values()) == {Verdict.NOT_ENOUGH_DATA}
    first = watched.settings.reference
    assert f"the first {first} decisions become the reference" in watched.results()[0].detail
    watched.update(rows(1_100))
    assert watched.ready
    assert set(verdicts(watched.results()).values()) == {Verdict.NOT_ENOUGH_DATA}
    missing = watched.settings.minimum - (1_100 - first)
    assert watched.results()[0].detail == f"{missing} more decisions after the reference are needed"


def test_ranks_are_uniform_and_independent_while_nothing_changes() -> None:
    """The law that everything rests on, on a skewed column with ties and missing values."""
    watched = DistributionMonitor(("x",), (Kind.NUMBER,), SETTINGS)
    chance = np.random.default_rng(5)
    stream = np.round(chance.exponential(size=(7_400, 1)), 1).astype(np.float32)
    stream[chance.random(len(stream)) < 0.2] = np.nan
    watched.update(stream[:1_000])
    found = []
    assert watched._binning is not None
    for start in range(1_000, len(stream), 128):
        bins = watched._binning.bins(stream[start : start + 128])
        found.append(watched._ranks(bins)[:, 0])
        watched.update(stream[start : start + 128])
    ranks = np.concatenate(found)
    assert stats.kstest(ranks, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(ranks[1:], ranks[:-1])[0, 1]) < 4 / np.sqrt(len(ranks))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2_500))
def test_a_restored_monitor_goes_on_as_if_nothing_had_happened(cut: int) -> None:
    """Stopped and restored at any place of the stream, in any phase."""
    stream = np.concatenate((rows(1_500), rows(1_000, 1, shift=0.4)))
    straight, stopped = monitor(), monitor()
    straight.update(stream[:cut])
    straight.update(stream[cut:])
    stopped.update(stream[:cut])
    restored = DistributionMonitor.from_bytes(stopped.to_bytes())
    restored.update(stream[cut:])
    assert restored.to_bytes() == straight.to_bytes()
    assert restored.results() == straight.results()


def test_state_does_not_grow_with_decisions() -> None:
    """Constant memory: what is stored after the reference has the same size for ever."""
    watched = monitor()
    watched.update(rows(2_000))
    before = len(watched.to_bytes())
    watched.update(rows(20_000, 1))
    assert abs(len(watched.to_bytes()) - before) < 16


@pytest.mark.parametrize("damage", [b"", b"TDS1", b"x" * 100])
def test_damaged_state_is_refused(damage: bytes) -> None:
    """Whatever the bytes are, the error is the same clear one."""
    for restore in (DistributionMonitor.from_bytes, JointMonitor.from_bytes):
        with pytest.raises(InvalidArgument, match="not a state"):
            restore(damage)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_cut_or_changed_state_never_raises_anything_else(data: st.DataObject) -> None:
    """Cut anywhere, or with a byte changed in the head."""
    watched = monitor()
    watched.update(rows(1_200))
    state = bytearray(watched.to_bytes())
    if data.draw(st.booleans()):
        state = state[: data.draw(st.integers(0, len(state) - 1))]
    else:
        state[data.draw(st.integers(0, 400))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(InvalidArgument):
        DistributionMonitor.from_bytes(bytes(state))


def test_rows_of_another_width_are_refused() -> None:
    """The columns are those that were named."""
    for watched in (monitor(), JointMonitor(3, SETTINGS)):
        with pytest.raises(InvalidArgument, match="3 columns"):
            watched.update(np.zeros((4, 2), np.float32))


def test_columns_without_life_raise_nothing() -> None:
    """A constant column, one that is always missing, one of infinities."""
    watched = DistributionMonitor(("constant", "missing", "infinite"), (Kind.NUMBER,) * 3, SETTINGS)
    joint = JointMonitor(3, SETTINGS)
    lifeless = np.tile(np.array([[7.0, np.nan, np.inf]], np.float32), (4_000, 1))
    watched.update(lifeless)
    joint.update(lifeless)
    assert set(verdicts(watched.results()).values()) == {Verdict.OK}
    assert joint.results()[0].verdict is Verdict.OK
    lifeless[:, 0] = 8
    watched.update(lifeless[:500])
    assert verdicts(watched.results())["constant"] is Verdict.DRIFT


@given(st.lists(st.floats(width=32), min_size=1, max_size=200), st.lists(st.floats(width=32), max_size=50))
def test_every_value_has_one_bin(first: list[float], later: list[float]) -> None:
    """Missing values the last one; larger numbers never a lower one."""
    known = np.array([first], np.float32).T
    binning = Binning.learn((Kind.NUMBER,), known)
    values = np.array([sorted(value for value in later if not math.isnan(value))], np.float32).T
    bins = binning.bins(values)
    assert np.all(np.diff(bins[:, 0]) >= 0)
    assert counted(bins).sum() == len(values)
    assert binning.bins(np.array([[np.nan]], np.float32))[0, 0] == WIDTH - 1


def correlated(n: int, seed: int, correlation: float) -> NDArray[np.float32]:
    """Ten numbers, each normal; the first two hang together."""
    found = np.random.default_rng(seed).standard_normal((n, 10))
    found[:, 1] = correlation * found[:, 0] + np.sqrt(1 - correlation**2) * found[:, 1]
    return found.astype(np.float32)


def test_a_change_of_correlation_alone_is_joint_drift() -> None:
    """No column changes by itself, so only the joint monitor sees it."""
    names, kinds = tuple(f"x{i}" for i in range(10)), (Kind.NUMBER,) * 10
    single, joint = DistributionMonitor(names, kinds, SETTINGS), JointMonitor(10, SETTINGS)
    for part in (correlated(3_000, 0, 0.0), correlated(3_000, 1, 0.8)):
        single.update(part)
        joint.update(part)
    assert set(verdicts(single.results()).values()) == {Verdict.OK}
    found = joint.results()[0]
    assert found.verdict is Verdict.DRIFT
    assert found.raised_at is not None
    assert 3_000 < found.raised_at <= 6_000


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 4_000))
def test_a_restored_joint_monitor_goes_on_as_before(cut: int) -> None:
    """In the whitening's phase, the sample's, and within or between stretches."""
    stream = np.concatenate((correlated(2_000, 0, 0.0), correlated(2_000, 1, 0.8)))
    straight, stopped = JointMonitor(10, SETTINGS), JointMonitor(10, SETTINGS)
    straight.update(stream[:cut])
    straight.update(stream[cut:])
    stopped.update(stream[:cut])
    restored = JointMonitor.from_bytes(stopped.to_bytes())
    restored.update(stream[cut:])
    assert restored.results() == straight.results()


def quality() -> QualityMonitor:
    return QualityMonitor(NAMES, KINDS, Thresholds(reference_decisions=1_000), alpha=0.01)


def bad(results: tuple[DriftResult, ...]) -> set[str]:
    return {result.subject for result in results if result.verdict is Verdict.DRIFT}


def sound(n: int) -> NDArray[np.bool_]:
    return np.zeros(n, np.bool_)


def test_what_is_usual_is_no_alert() -> None:
    """A feature that is missing in a tenth of all rows, over the threshold of 2 %, was so in the reference."""
    watched = quality()
    assert watched.results() == ()
    watched.update(rows(6_000), sound(6_000))
    assert bad(watched.results()) == set()


def test_each_kind_of_bad_data_is_found_where_it_is() -> None:
    """Nulls, outliers, a new category, a constant feature, and one row that broke the schema."""
    watched = quality()
    watched.update(rows(3_000), sound(3_000))
    later = rows(3_000, 1)
    later[::10, 0] = np.nan
    later[::10, 1] = 1_000
    later[::10, 2] = 9
    flags = sound(3_000)
    flags[5] = True
    watched.update(later, flags)
    assert {"a: missing", "b: outliers", "c: new categories"} <= bad(watched.results())
    constant = rows(1_000, 2)
    constant[:, 0] = 0.5
    watched.update(constant, sound(1_000))
    assert "constant features" in bad(watched.results())
    (found,) = (result for result in watched.results() if result.subject == "constant features")
    assert found.detail.endswith(": a")


def test_the_first_broken_row_counts_where_none_is_allowed() -> None:
    """A limit of 0 is broken by one."""
    watched = quality()
    watched.update(rows(1_500), sound(1_500))
    flags = sound(64)
    flags[0] = True
    watched.update(rows(64, 1), flags)
    assert bad(watched.results()) == {"schema violations"}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3_000))
def test_a_restored_quality_monitor_goes_on_as_before(cut: int) -> None:
    """In each of its phases."""
    stream = rows(3_000)
    straight, stopped, restored = quality(), quality(), quality()
    for watched in (straight, stopped):
        watched.update(stream[:cut], sound(cut))
    restored.restore(stopped.to_bytes())
    for watched in (straight, restored):
        watched.update(stream[cut:], sound(3_000 - cut))
    assert restored.to_bytes() == straight.to_bytes()
