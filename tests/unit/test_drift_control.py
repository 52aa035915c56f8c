"""Many tests, many looks: the corrections, and the evidence that holds at every look."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.drift.control import e_bh, holm, spent
from monitoring.drift.evidence import CAP, Evidence, stake_left
from monitoring.drift.rates import RateMonitor, RateSettings
from monitoring.drift.results import Aspect

shares = st.floats(0.0, 1.0)


def test_all_looks_together_spend_no_more_than_alpha() -> None:
    """However many looks there are, their shares sum to less than the whole."""
    total = sum(spent(0.05, look) for look in range(1, 100_000))
    assert 0.0499 < total < 0.05


def test_looks_are_counted_from_one() -> None:
    """Look number 0 would divide by nothing."""
    with pytest.raises(ValueError, match="from 1"):
        spent(0.05, 0)


@given(st.lists(shares, min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_what_its_definition_rejects(p_values: list[float], alpha: float) -> None:
    """Step down through the sorted p-values while p <= alpha / (number left)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = set()
    for step, place in enumerate(order):
        if p_values[place] * (len(order) - step) > alpha:
            break
        rejected.add(place)
    adjusted = holm(np.array(p_values))
    assert {i for i in range(len(p_values)) if adjusted[i] <= alpha} == rejected


def test_holm_leaves_out_what_has_no_p_value() -> None:
    """A column without values is not tested, so it does not make the others pay."""
    assert holm(np.array([np.nan, 0.02])).tolist()[1] == 0.02
    assert math.isnan(holm(np.array([np.nan, 0.02]))[0])
    assert holm(np.array([])).size == 0


@given(st.lists(st.floats(-5.0, 20.0), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_e_bh_rejects_what_its_definition_rejects(log_e: list[float], alpha: float) -> None:
    """Reject the k largest for the largest k with k e_(k) >= m / alpha."""
    order = sorted(range(len(log_e)), key=lambda i: -log_e[i])
    bound = math.log(len(log_e) / alpha)
    margins = [math.log(k) + log_e[order[k - 1]] - bound for k in range(1, len(order) + 1)]
    if any(abs(margin) < 1e-9 for margin in margins):
        return
    count = max((k for k, margin in enumerate(margins, 1) if margin > 0), default=0)
    adjusted = e_bh(np.array(log_e))
    assert {i for i in range(len(log_e)) if adjusted[i] <= math.log(alpha)} == set(order[:count])


@given(st.integers(0, 10**7), st.integers(1, 10**5))
def test_the_stake_shrinks_and_never_runs_out(decisions: int, more: int) -> None:
    """Stakes are positive and sum to at most 1 over an endless run."""
    assert 0 < stake_left(decisions + more) < stake_left(decisions) <= 1


@pytest.mark.parametrize("limit", [0.1, 0.5])
def test_evidence_has_mean_one_when_nothing_is_wrong(limit: float) -> None:
    """Over all outcomes of a run, weighted by their chance at the limit, the e-value's mean is at most 1."""
    mean = 0.0
    settings = RateSettings(aspect=Aspect.RATE, alpha=0.05, minimum=1)
    for outcomes in itertools.product((0.0, 1.0), repeat=7):
        monitor = RateMonitor(["x"], [limit], settings)
        for outcome in outcomes:
            monitor.update(np.array([[outcome]]))
        chance = math.prod(limit if outcome else 1 - limit for outcome in outcomes)
        mean += chance * math.exp(monitor._evidence.log_e()[0])
    assert mean == pytest.approx(1.0, abs=1e-9)


def test_evidence_recovers_because_it_is_capped() -> None:
    """A long time of drift is not held against a stream that is well again for as long."""
    evidence = Evidence(1, 1)
    evidence.add(np.array([[1e6]]), 64)
    assert evidence.log_e()[0] <= CAP + 1
    for _ in range(50):
        evidence.add(np.array([[-1.0]]), 64)
    assert evidence.log_e()[0] < 0
