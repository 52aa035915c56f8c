"""Laws of the client's throttle."""

from __future__ import annotations

from random import Random

import pytest

from services.client.throttle import SURPLUS, Throttle
from services.runtime.errors import ResourceExhausted


class Router:
    """A router that lets so many calls a second in, behind a throttle."""

    def __init__(self, capacity: float) -> None:
        self.now = 0.0
        self.capacity = capacity
        self.throttle = Throttle(lambda: self.now, Random(3))
        self.tokens = 0.0
        self.reached = self.answered = 0

    def offer(self, calls: int, seconds: float) -> None:
        """Offers calls at even distances."""
        self.reached = self.answered = 0
        for _ in range(calls):
            self.now += seconds / calls
            self.tokens = min(self.tokens + self.capacity * seconds / calls, 10.0)
            if self.throttle.check("reports") is not None:
                continue
            self.reached += 1
            if self.tokens >= 1:
                self.tokens -= 1
                self.answered += 1
                self.throttle.let_in("reports")
            else:
                self.throttle.turned_away("reports", ResourceExhausted("", "", 0.25))


def test_without_refusals_every_call_goes_out() -> None:
    """A router that lets everything in is never spared."""
    router = Router(1000)
    router.offer(5000, 10)
    assert router.reached == router.answered == 5000


def test_at_ten_times_what_the_router_takes_it_sees_little_more_than_that() -> None:
    """Nearly all that it can answer is answered, and refusing costs it little."""
    router = Router(100)
    router.offer(10_000, 10)
    router.offer(10_000, 10)
    assert router.answered >= 0.95 * 1000
    assert router.reached <= SURPLUS * 1.15 * router.answered


def test_when_the_router_takes_more_again_the_throttle_opens() -> None:
    """Twenty seconds after the trouble every call goes out again."""
    router = Router(50)
    router.offer(10_000, 10)
    router.capacity = 10_000
    router.offer(20_000, 20)
    router.offer(1000, 1)
    assert router.answered == router.reached >= 995


def test_families_are_throttled_apart_and_the_hint_is_passed_on() -> None:
    """A family that is refused does not take another one along."""
    router = Router(0)
    router.offer(1000, 5)
    assert router.throttle.check("dispatch") is None
    for _ in range(100):
        refusal = router.throttle.check("reports")
        if refusal is not None:
            break
    assert refusal is not None
    assert refusal.retry_after == pytest.approx(0.25)
