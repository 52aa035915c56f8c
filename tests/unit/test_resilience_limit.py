"""Laws of the adaptive concurrency limit."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.resilience.limit import DEFAULT_LIMIT, AdaptiveLimit, LimitSettings


class AnyLoad(RuleBasedStateMachine):
    """Whatever answers and drops come, in whatever order, the limit keeps its laws."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = AdaptiveLimit(DEFAULT_LIMIT)
        self.now = 0.0
        self.most_used = 0
        self.window_limit = self.limit.limit

    def _watch(self, before: int, under_way: int) -> None:
        self.most_used = max(self.most_used, under_way)
        if self.limit.limit != before:
            if self.limit.limit > before:
                assert self.most_used * 2 >= before - 1, "what is not used does not grow"
            self.most_used = 0

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.floats(1e-5, 10), under_way=st.integers(1, 5000), times=st.integers(1, 50))
    def answers_come(self, seconds: float, under_way: int, times: int) -> None:
        for _ in range(times):
            before = self.limit.limit
            self.limit.answered(self.now, seconds, under_way)
            self._watch(before, under_way)

    @rule(under_way=st.integers(1, 5000))
    def a_call_is_dropped(self, under_way: int) -> None:
        before = self.limit.limit
        self.limit.dropped(self.now, under_way)
        assert self.limit.limit <= before
        self._watch(before, under_way)

    @invariant()
    def it_stays_within_its_bounds(self) -> None:
        assert DEFAULT_LIMIT.lowest <= self.limit.limit <= DEFAULT_LIMIT.highest


AnyLoad.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyLoad = AnyLoad.TestCase


def served(limit: AdaptiveLimit, *, servers: int, service: float, seconds: float, start: float = 0.0) -> float:
    """Gives the mean latency of the last tenth of the time.

    As many calls are kept under way as the limit allows, against `servers` that take `service` each.
    """
    now, free = start, [start] * servers
    heapq.heapify(free)
    under_way: list[tuple[float, float]] = []
    last: list[float] = []
    while now < start + seconds:
        while len(under_way) < limit.limit:
            begin = max(heapq.heappop(free), now)
            heapq.heappush(free, begin + service)
            heapq.heappush(under_way, (begin + service, now))
        end, began = heapq.heappop(under_way)
        now = end
        limit.answered(now, end - began, len(under_way) + 1)
        if now > start + 0.9 * seconds:
            last.append(end - began)
    return sum(last) / len(last)


@settings(deadline=None, max_examples=15)
@given(servers=st.integers(1, 50), service=st.floats(0.002, 0.02), first=st.integers(4, 512))
def test_it_keeps_the_backend_busy_and_its_queue_short(servers: int, service: float, first: int) -> None:
    """Under more load than the backend can take, the limit ends between its capacity and a bounded queue."""
    limit = AdaptiveLimit(LimitSettings(first=first))
    # The baseline comes from a quiet moment, as it does when a router starts.
    for _ in range(10):
        limit.answered(0.0, service, 1)
    latency = served(limit, servers=servers, service=service, seconds=25.0)
    assert limit.limit >= servers, "the backend would idle"
    allowed = DEFAULT_LIMIT.tolerance * service + DEFAULT_LIMIT.slack_seconds
    # One step of growth may overshoot before it is taken back.
    assert latency <= allowed + service * (1 + 2 * limit.limit**0.5) / servers + service


def test_it_grows_to_the_most_while_latency_stays_low() -> None:
    """A backend that is never slow is given all that may be."""
    limit, now = AdaptiveLimit(DEFAULT_LIMIT), 0.0
    for _ in range(200):
        now += 0.11
        for _ in range(10):
            limit.answered(now, 0.001, limit.limit)
    assert limit.limit == DEFAULT_LIMIT.highest


@pytest.mark.parametrize("slow", [True, False])
def test_it_falls_to_the_least_under_lasting_trouble(*, slow: bool) -> None:
    """By latency alone, and by drops alone."""
    limit, now = AdaptiveLimit(DEFAULT_LIMIT), 0.0
    for _ in range(10):
        limit.answered(now, 0.001, 1)
    for _ in range(200):
        now += 0.101
        for _ in range(10):
            if slow:
                limit.answered(now, 1.0, limit.limit)
            else:
                limit.dropped(now, limit.limit)
    assert limit.limit == DEFAULT_LIMIT.lowest


def test_a_slower_version_is_not_held_to_the_faster_ones_latency_for_ever() -> None:
    """A minute after the latency rose for good, the limit grows again."""
    limit, now = AdaptiveLimit(DEFAULT_LIMIT), 0.0
    for _ in range(10):
        limit.answered(now, 0.001, 1)
    for _ in range(50):
        now += 0.101
        for _ in range(10):
            limit.answered(now, 0.2, limit.limit)
    low = limit.limit
    for _ in range(1200):
        now += 0.101
        for _ in range(10):
            limit.answered(now, 0.2, limit.limit)
    assert limit.limit > 10 * low
