"""Laws of budgets, allowances, latencies, rate limits and validity."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.family import load
from router.resilience.allowance import Allowance
from router.resilience.budget import ARM_SHARE, RESERVE_SECONDS, arm_budget
from router.resilience.latency import Latency
from router.resilience.rate_limits import Rate, RateLimits
from router.resilience.reasons import Fallback
from router.resilience.standing_alerts import StandingAlerts
from router.resilience.validity import outside, valid_range
from turnout.v1 import prediction_pb2


def test_reasons_are_those_of_the_proto() -> None:
    """Each reason has the number and the name of turnout.v1.FallbackReason."""
    names = {reason.value: f"FALLBACK_REASON_{reason.name}" for reason in Fallback if reason}
    assert names == {number: name for name, number in prediction_pb2.FallbackReason.items() if number}


@given(st.floats(-1, 10))
def test_the_arm_never_gets_what_is_kept_back(left: float) -> None:
    """At most 60 % of the time, at least 50 ms kept, and nothing at all with 10 ms or less left."""
    budget = arm_budget(left)
    assert budget <= max(ARM_SHARE * left, 0.0)
    assert budget == 0.0 or left - budget >= RESERVE_SECONDS - 1e-12
    if left <= 0.01:
        assert budget == 0.0
    if left >= 0.06:
        assert budget > 0.0


@given(st.lists(st.booleans(), max_size=2000), st.sampled_from([0.05, 0.1]))
def test_extra_attempts_never_exceed_their_share(wanted: list[bool], share: float) -> None:
    """Under total failure as well: calls and extra attempts are at most 1.1 times the calls, at every moment."""
    allowance = Allowance(share)
    calls = spent = 0
    for want in wanted:
        allowance.called()
        calls += 1
        if want and allowance.left:
            allowance.spend()
            spent += 1
        assert spent <= share * calls + 1e-6
    if all(wanted):
        assert spent >= math.floor(share * calls + 1e-6) - 1


@given(st.lists(st.floats(0.0001, 1), min_size=128, max_size=400))
def test_the_95th_percentile_is_one_of_the_last_answers(latencies: list[float]) -> None:
    """It lies among the last 160 and, over the same ones, where statistics puts it."""
    latency = Latency()
    for seconds in latencies:
        latency.add(seconds)
    assert latency.p95 in latencies[-160:]
    if len(latencies) % 32 == 0:
        last = sorted(latencies[-128:])
        assert latency.p95 >= statistics.quantiles(last, n=100)[93]


RATES = st.lists(st.builds(Rate, st.integers(1, 200), st.floats(0.5, 5000)), min_size=1, max_size=3)


@given(RATES, st.lists(st.tuples(st.floats(0, 100), st.integers(1, 60)), max_size=100))
def test_no_stretch_of_time_takes_more_than_its_rates(rates: list[Rate], arrivals: list[tuple[float, int]]) -> None:
    """Between any two instants at most one full bucket and what was refilled; refusals take nothing."""
    limits, now = RateLimits(rates, 0.0), 0.0
    taken: list[tuple[float, int]] = []
    for gap, count in arrivals:
        now += gap
        wait = limits.take(count, now)
        if wait == 0.0:
            taken.append((now, count))
        elif math.isfinite(wait) and gap > 50:
            now += wait
            assert limits.take(count, now) == 0.0, "after the wait that was named it is taken"
            taken.append((now, count))
        else:
            assert wait > 0
    for rate in rates:
        for first in range(len(taken)):
            total = 0
            for at, count in taken[first:]:
                total += count
                assert total <= rate.decisions * (1 + (at - taken[first][0]) / rate.seconds) + 1e-3


def test_a_burst_and_a_sustained_rate_hold_together() -> None:
    """100 a minute and 1 000 an hour: a caller at full speed gets 100 at once, and the hour's bucket twice at most."""
    limits = RateLimits([Rate(100, 60.0), Rate(1000, 3600.0)], 0.0)
    assert sum(limits.take(1, 0.0) == 0.0 for _ in range(500)) == 100
    assert 0.5 < limits.take(1, 0.0) <= 0.61
    taken = 100 + sum(limits.take(1, second / 2) == 0.0 for second in range(1, 7200))
    assert 1900 <= taken <= 2000  # the bucket of 1 000 was full, and 1 000 came after
    assert limits.take(101, 10_000.0) == math.inf


def test_what_is_given_back_can_be_taken_again() -> None:
    """A refused batch does not cost its tenant anything."""
    limits = RateLimits([Rate(10, 60.0)], 0.0)
    assert limits.take(10, 0.0) == 0.0
    limits.give_back(10)
    assert limits.take(10, 0.0) == 0.0
    limits.give_back(100)
    assert limits.take(11, 0.0) == math.inf


def test_an_alert_stands_until_something_else_is_said() -> None:
    """On the variants that were named last."""
    alerts = StandingAlerts()
    assert not alerts.stands("dispatch", "xgboost")
    alerts.replace([("dispatch", "xgboost")])
    assert alerts.stands("dispatch", "xgboost")
    assert not alerts.stands("dispatch", "forest")
    alerts.replace([("dispatch", "forest")])
    assert alerts.stands("dispatch", "forest")
    assert not alerts.stands("dispatch", "xgboost")


@pytest.mark.parametrize(
    ("row", "expected"),
    [((1.0, 5.0), False), ((0.9, 5.0), True), ((1.0, 9.1), True), ((math.nan, math.nan), False), ((2.0, 9.0), False)],
)
def test_a_row_is_outside_when_a_known_value_is(row: tuple[float, ...], *, expected: bool) -> None:
    """Bounds belong to the inside; what is missing is nowhere."""
    assert outside(row, ((1.0, 2.0), (5.0, 9.0))) is expected


def test_the_valid_range_leaves_room_for_float32_only() -> None:
    """A probability a hair over 1 is usable, 1.00001 is not."""
    low, high = valid_range(load("dispatch").target)
    assert low < 0.0
    assert 1.0 < high < 1.00001
