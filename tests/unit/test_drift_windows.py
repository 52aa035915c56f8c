"""Windows compared from their sketches, held against scipy and against the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import jensenshannon

from bentos.thresholds import Thresholds
from monitoring.drift.binning import Kind
from monitoring.drift.distances import category_distances, divergences, number_distances
from monitoring.drift.results import Aspect, DriftResult, Verdict, Window
from monitoring.drift.summaries import CategorySummary, NumberSummary, WindowSummary
from monitoring.drift.window_quality import Rate
from monitoring.drift.windows import compare_rates, compare_windows
from services.runtime.errors import InvalidArgument

NAMES = ("a", "b", "kind")
KINDS = (Kind.NUMBER, Kind.NUMBER, Kind.CATEGORY)
THRESHOLDS = Thresholds()


def rows(n: int, seed: int = 0) -> NDArray[np.float32]:
    chance = np.random.default_rng(seed)
    return np.column_stack((chance.normal(size=n), chance.exponential(size=n), chance.integers(0, 4, n))).astype("f4")


def window(values: NDArray[np.float32], violations: int = 0) -> WindowSummary:
    found = WindowSummary.of(Window(len(values), 0, 60), values, NAMES, KINDS, codes=8)
    answers = {"score": NumberSummary.of(values[:, 0]), "confidence": NumberSummary.of(values[:, 1])}
    return WindowSummary(found.window, found.features, answers, violations)


def drifting(results: tuple[DriftResult, ...]) -> set[str]:
    return {result.subject for result in results if result.verdict is Verdict.DRIFT}


def test_small_windows_give_the_very_statistic_and_nearly_the_p_value_of_scipy() -> None:
    """While a sketch holds every value, KS is exact; the p-value is the asymptotic one."""
    first, second = rows(180)[:, 0], rows(150, 1)[:, 0] + np.float32(0.3)
    ours = number_distances(NumberSummary.of(first), NumberSummary.of(second))
    theirs = stats.ks_2samp(first, second, method="asymp")
    # Values between the 65 quantiles of either window are not looked at.
    assert ours.ks == pytest.approx(theirs.statistic, abs=1 / 64)
    assert ours.ks == ours.lower
    assert np.log(ours.p_value) == pytest.approx(np.log(theirs.pvalue), rel=0.25)


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0])
def test_large_windows_differ_from_scipy_by_no_more_than_the_sketches_say(shift: float) -> None:
    """KS from sketches of 20 000 and 30 000 values; `lower` never exceeds the exact distance."""
    first, second = rows(20_000)[:, 0], rows(30_000, 1)[:, 0] + np.float32(shift)
    before, now = NumberSummary.of(first), NumberSummary.of(second)
    exact = stats.ks_2samp(first, second).statistic
    found = number_distances(before, now)
    assert abs(found.ks - exact) <= before.rank_error + now.rank_error + 1 / 64
    assert found.lower <= exact
    assert found.p_value >= stats.ks_2samp(first, second).pvalue


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=2, max_size=8))
def test_chi_squared_is_scipys_where_nothing_is_rare(pairs: list[tuple[int, int]]) -> None:
    """The same p-value as that of the contingency table, without a continuity correction."""
    table = np.array(pairs).T + 50
    found = category_distances(CategorySummary(0, table[0]), CategorySummary(0, table[1]))
    expected = stats.chi2_contingency(table, correction=False).pvalue
    assert found.p_value == pytest.approx(expected, rel=1e-6, abs=1e-300)
    shares = table / table.sum(axis=1, keepdims=True)
    assert found.ks == pytest.approx(np.abs(shares[0] - shares[1]).sum() / 2)


def test_rare_categories_are_taken_together() -> None:
    """A hundred categories seen once each are no drift."""
    before = CategorySummary(0, np.array([1_000, *[1] * 100]))
    now = CategorySummary(0, np.array([1_000, *[0] * 100, *[1] * 100]))
    assert category_distances(before, now).p_value > 0.5


@given(st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 1_000)), min_size=2, max_size=10))
def test_divergences_are_those_of_their_definitions(pairs: list[tuple[int, int]]) -> None:
    """Jensen-Shannon as scipy has it; PSI is symmetric, and 0 for the same counts."""
    first, second = (np.array(counts, np.float64) for counts in zip(*pairs, strict=True))
    psi, js = divergences(first, second)
    assert js == pytest.approx(jensenshannon(first + 0.5, second + 0.5, base=2), abs=1e-7)
    assert psi == pytest.approx(divergences(second, first)[0])
    assert psi >= -1e-12
    assert divergences(first, first) == (0.0, 0.0)


def test_equal_windows_agree_and_a_shift_is_found_where_it_is() -> None:
    """One number moves by half a standard deviation, the score with it; a category is new; values are missing."""
    reference = window(rows(20_000))
    assert drifting(compare_windows(reference, window(rows(2_000, 1)), THRESHOLDS, look=3)) == set()
    moved = rows(2_000, 2)
    moved[:, 0] += 0.5
    moved[::10, 1] = np.nan
    moved[::5, 2] = 7
    found = compare_windows(reference, window(moved), THRESHOLDS, look=3)
    assert drifting(found) == {"a", "score", "b: missing", "kind", "kind: new categories"}
    of_a = next(result for result in found if result.subject == "a")
    assert of_a.aspect is Aspect.FEATURE
    assert of_a.effect == pytest.approx(2 * stats.norm.cdf(0.25) - 1, abs=0.05)
    assert of_a.p_value <= of_a.false_alarm_rate
    assert of_a.distances is not None


def test_later_looks_need_more_evidence() -> None:
    """The same windows give a p-value that grows with the number of the look."""
    reference, current = window(rows(20_000)), window(rows(400, 1) + np.float32(0.12))
    first = compare_windows(reference, current, THRESHOLDS, look=1)[0].p_value
    hundredth = compare_windows(reference, current, THRESHOLDS, look=100)[0].p_value
    assert hundredth == pytest.approx(min(1.0, first * 100 * 101 / 2))


def test_small_windows_get_no_verdict() -> None:
    """Too few decisions on either side, or so few that only a large shift would show."""
    large, small = window(rows(20_000)), window(rows(50, 1))
    for reference, current in ((large, small), (small, large)):
        for result in compare_windows(reference, current, THRESHOLDS, look=1):
            if result.aspect in {Aspect.FEATURE, Aspect.PREDICTION}:
                assert result.verdict is Verdict.NOT_ENOUGH_DATA
    hazy = compare_windows(large, window(rows(250, 1)), THRESHOLDS, look=10_000)[0]
    assert hazy.verdict is Verdict.NOT_ENOUGH_DATA
    assert "only from a distance" in hazy.detail


def test_bad_data_in_a_window_is_told_apart() -> None:
    """A constant feature, one that is missing altogether, outliers, and rows that broke the schema."""
    reference = window(rows(20_000))
    later = rows(2_000, 1)
    later[:, 0] = 0.25
    later[::10, 1] = 10_000
    found = compare_windows(reference, window(later, violations=1), THRESHOLDS, look=1)
    assert {"constant features", "b: outliers", "schema violations"} <= drifting(found)
    gone = rows(2_000, 1)
    gone[:, 0] = np.nan
    results = {r.subject: r for r in compare_windows(reference, window(gone), THRESHOLDS, look=1)}
    assert results["a"].verdict is Verdict.NOT_ENOUGH_DATA
    assert results["a: missing"].verdict is Verdict.DRIFT
    assert results["constant features"].verdict is Verdict.OK


def test_rates_are_held_against_their_limits() -> None:
    """30 fallbacks in 200 are over 5 %, 12 may be chance, 3 in 20 say nothing, and nothing may fail at a limit of 0."""
    hits = {"a": Rate(30, 200, 0.05), "b": Rate(12, 200, 0.05), "c": Rate(3, 20, 0.05), "d": Rate(1, 200, 0.0)}
    found = compare_rates(hits, Window(200, 0, 60), THRESHOLDS, look=1)
    verdicts = [result.verdict for result in found]
    assert verdicts == [Verdict.DRIFT, Verdict.OK, Verdict.NOT_ENOUGH_DATA, Verdict.DRIFT]
    alone = compare_rates({"a": hits["b"]}, Window(200, 0, 60), THRESHOLDS, look=1)[0]
    exact = stats.binomtest(12, 200, 0.05, alternative="greater").pvalue
    assert alone.p_value == pytest.approx(2 * exact)


def test_windows_of_different_features_are_refused() -> None:
    """Neither compared nor merged."""
    other = WindowSummary(Window(1, 0, 1), {"z": NumberSummary.of(np.ones(1))}, {})
    with pytest.raises(InvalidArgument, match="different features"):
        compare_windows(window(rows(10)), other, THRESHOLDS, look=1)
    with pytest.raises(InvalidArgument, match="different features"):
        window(rows(10)).merge(other)
    mixed = WindowSummary(Window(1, 0, 1), {"z": CategorySummary(0, np.ones(2, np.int64))}, {})
    for act in (other.merge, lambda it: compare_windows(other, it, THRESHOLDS, look=1)):
        with pytest.raises(InvalidArgument, match="a number cannot be"):
            act(mixed)


def test_codes_out_of_range_are_refused() -> None:
    """A code that the schema does not have would have no place."""
    with pytest.raises(InvalidArgument, match="from 0 to 3"):
        CategorySummary.of(np.array([0.0, 4.0]), 4)


parts = st.lists(st.integers(0, 60), min_size=3, max_size=3)


def counts(summary: WindowSummary) -> tuple[object, ...]:
    """All that is exact about a summary, and the values while the sketches still hold all of them."""
    numbers = [s for s in (*summary.features.values(), *summary.answers.values()) if isinstance(s, NumberSummary)]
    codes = [s.counts.tolist() for s in summary.features.values() if isinstance(s, CategorySummary)]
    shares = np.linspace(0, 1, 30)
    values = [s.quantiles(shares).tolist() if s.known else [] for s in numbers]
    return (summary.window, summary.violations, [(s.known, s.missing) for s in numbers], codes, values)


@settings(deadline=None)
@given(parts)
def test_merging_is_associative_and_commutative_with_the_empty_window(sizes: list[int]) -> None:
    """In whatever order windows are added up, the same values are in the sum."""
    a, b, c = (window(rows(size, seed), violations=seed) for seed, size in enumerate(sizes))
    empty = window(rows(0))
    assert counts(a.merge(b).merge(c)) == counts(a.merge(b.merge(c)))
    assert counts(a.merge(b)) == counts(b.merge(a))
    assert counts(a.merge(empty)) == counts(a) == counts(empty.merge(a))
    assert counts(a.merge(b)) != counts(a) or sizes[1] == 0


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 5_000))
def test_a_summary_survives_its_bytes(size: int) -> None:
    """Nothing is lost on the way to a database and back."""
    before = window(rows(size), violations=2)
    after = WindowSummary.from_bytes(before.to_bytes())
    assert counts(after) == counts(before)
    assert after.to_bytes() == before.to_bytes()


@pytest.mark.parametrize("cut", [0, 3, 20, 500, -1])
def test_damaged_summaries_are_refused(cut: int) -> None:
    """Cut anywhere."""
    with pytest.raises(InvalidArgument, match="not a state"):
        WindowSummary.from_bytes(window(rows(100)).to_bytes()[:cut])
