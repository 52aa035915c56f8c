"""Laws of the circuit breaker."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.resilience.breaker import DEFAULT_BREAKER, JITTER, Breaker, BreakerState


class AnyBackend(RuleBasedStateMachine):
    """Calls begin and end in any order against a backend that does whatever it likes; the laws hold at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.chance = 0.0
        self.out: list[tuple[bool, int]] = []
        self.opened_at = 0.0
        self.openings_in_a_row = 0
        self.told_recovered = False

    @initialize(start=st.floats(0, 1e6))
    def begin(self, start: float) -> None:
        self.now = start
        self.breaker = Breaker(DEFAULT_BREAKER, lambda: self.chance)

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(chance=st.floats(0, 1, exclude_max=True))
    def chance_changes(self, chance: float) -> None:
        self.chance = chance

    @rule()
    def a_call_wants_out(self) -> None:
        before = self.breaker.state
        ready = self.breaker.ready(self.now)
        if before is BreakerState.CLOSED:
            assert ready
        if before is BreakerState.OPEN:
            waited = self.now - self.opened_at
            shortest = min(2.0 ** (self.openings_in_a_row - 1), 30.0)
            if not self.told_recovered and waited < shortest:
                assert not ready, "an open breaker lets nothing through before its time"
            if waited > shortest * (1 + JITTER):
                assert ready, "after its time it lets a probe out"
        if before is BreakerState.HALF_OPEN:
            assert ready == (not any(probe for probe, _ in self.out)), "one probe, and always one"
        if ready:
            self.out.append((self.breaker.enter(), self.breaker.opened))

    def _end(self, position: int) -> bool:
        return self.out.pop(position % len(self.out))[0]

    @precondition(lambda self: self.out)
    @rule(position=st.integers(0, 100))
    def a_call_succeeds(self, position: int) -> None:
        before = self.breaker.state
        probe = self._end(position)
        self.breaker.succeeded(self.now, probe=probe)
        if probe:
            assert self.breaker.state is BreakerState.CLOSED
            self.openings_in_a_row = 0
        else:
            assert self.breaker.state is before, "only the probe closes"

    @precondition(lambda self: self.out)
    @rule(position=st.integers(0, 100))
    def a_call_fails(self, position: int) -> None:
        before = self.breaker.state
        probe = self._end(position)
        self.breaker.failed(self.now, probe=probe)
        if probe:
            assert self.breaker.state is BreakerState.OPEN
        if before is not BreakerState.CLOSED and not probe:
            assert self.breaker.state is before
        if self.breaker.state is BreakerState.OPEN and before is not BreakerState.OPEN:
            self.opened_at = self.now
            self.openings_in_a_row += 1
            self.told_recovered = False

    @precondition(lambda self: self.out)
    @rule(position=st.integers(0, 100))
    def a_caller_leaves(self, position: int) -> None:
        before = self.breaker.state
        self.breaker.abandoned(probe=self._end(position))
        assert self.breaker.state is before

    @rule()
    def it_was_seen_to_be_well(self) -> None:
        self.breaker.recovered()
        assert self.breaker.state is not BreakerState.OPEN
        self.told_recovered = True

    @invariant()
    def at_most_one_probe_is_out(self) -> None:
        assert sum(probe for probe, _ in self.out) <= 1


AnyBackend.TestCase.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
TestAnyBackend = AnyBackend.TestCase


def breaker() -> Breaker:
    """A breaker without jitter."""
    return Breaker(DEFAULT_BREAKER, lambda: 0.0)


def fail(one: Breaker, now: float, times: int = 1) -> None:
    """Lets calls fail."""
    for _ in range(times):
        assert one.ready(now)
        one.failed(now, probe=one.enter())


def succeed(one: Breaker, now: float, times: int = 1) -> None:
    """Lets calls succeed."""
    for _ in range(times):
        assert one.ready(now)
        one.succeeded(now, probe=one.enter())


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    """A success between starts the count anew."""
    one = breaker()
    fail(one, 0.0, 4)
    succeed(one, 0.0)
    fail(one, 0.0, 4)
    assert one.state is BreakerState.CLOSED
    fail(one, 0.0)
    assert not one.ready(0.999)
    assert one.ready(1.0)


def test_half_of_twenty_within_the_window_open_it() -> None:
    """Nineteen are too few; and failures older than ten seconds do not count."""
    one = breaker()
    for _ in range(9):
        succeed(one, 1.0)
        fail(one, 1.0)
    succeed(one, 1.0)
    assert one.ready(1.0)
    fail(one, 1.0)
    assert not one.ready(1.0)
    late = breaker()
    for step in range(60):
        # Half of all calls fail, but never twenty within ten seconds.
        (succeed if step % 2 else fail)(late, step * 0.6)
    assert late.state is BreakerState.CLOSED


def test_it_stays_open_twice_as_long_each_time_and_thirty_seconds_at_most() -> None:
    """1, 2, 4, 8, 16, 30, 30 seconds while probes fail; after a success one second again."""
    one, now = breaker(), 0.0
    fail(one, now, 5)
    for seconds in (1, 2, 4, 8, 16, 30, 30):
        assert not one.ready(now + seconds - 0.001)
        now += seconds
        fail(one, now)
    now += 30
    succeed(one, now)
    fail(one, now, 5)
    assert one.ready(now + 1)


def test_what_went_out_before_it_opened_is_not_the_probe() -> None:
    """A late answer from before neither closes a half-open breaker nor opens it again."""
    one = breaker()
    assert one.ready(0.0)
    early = one.enter()
    fail(one, 0.0, 5)
    one.recovered()
    one.succeeded(0.5, probe=early)
    assert one.state is BreakerState.HALF_OPEN
    one.failed(0.5, probe=early)
    assert one.state is BreakerState.HALF_OPEN
