"""What the router knows about how well one backend does, and what follows: breaker, concurrency limit, percentile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from router.resilience.breaker import DEFAULT_BREAKER, Breaker, BreakerSettings, BreakerState
from router.resilience.latency import Latency
from router.resilience.limit import DEFAULT_LIMIT, AdaptiveLimit, LimitSettings


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Settings of a backend's guard. `slow_seconds` is None where only answers that come too late count as failed."""

    breaker: BreakerSettings = DEFAULT_BREAKER
    limit: LimitSettings = DEFAULT_LIMIT
    slow_seconds: float | None = None


DEFAULT_GUARD: Final = GuardSettings()


class Guard:
    """Hears what became of every call to one backend. Instants are in seconds of the loop's clock."""

    __slots__ = ("_breaker", "_limit", "_slow", "latency", "settings")

    def __init__(self, settings: GuardSettings, chance: Callable[[], float]) -> None:
        self.settings = settings
        self._breaker = Breaker(settings.breaker, chance)
        self._limit = AdaptiveLimit(settings.limit)
        self._slow = settings.slow_seconds if settings.slow_seconds is not None else float("inf")
        self.latency = Latency()

    @property
    def state(self) -> BreakerState:
        """State of the breaker."""
        return self._breaker.state

    @property
    def opened(self) -> int:
        """How often the breaker opened."""
        return self._breaker.opened

    @property
    def limit(self) -> int:
        """Calls that may be under way."""
        return self._limit.limit

    def ready(self, now: float) -> bool:
        """Tells whether the breaker would let a call through."""
        return self._breaker.ready(now)

    def enter(self) -> bool:
        """Takes note that a call goes out; gives whether it is a probe, for the reports that follow."""
        return self._breaker.enter()

    def recovered(self) -> None:
        """The backend was seen to be well."""
        self._breaker.recovered()

    def answered(self, now: float, seconds: float, under_way: int, *, usable: bool, probe: bool) -> None:
        """An answer came in time. One that is not `usable` (NaN, out of range, wrong shape) counts as failed."""
        self.latency.add(seconds)
        self._limit.answered(now, seconds, under_way)
        if usable and seconds <= self._slow:
            self._breaker.succeeded(now, probe=probe)
        else:
            self._breaker.failed(now, probe=probe)

    def failed(self, now: float, *, probe: bool) -> None:
        """The backend answered with an error, or the connection broke."""
        self._breaker.failed(now, probe=probe)

    def late(self, now: float, given: float, under_way: int, *, probe: bool) -> None:
        """No answer came in the `given` seconds.

        Where that is less than the backend usually takes, it is the caller's haste and says nothing about the backend.
        """
        usual = self.latency.p95
        if usual is not None and given < usual:
            self._breaker.abandoned(probe=probe)
            return
        self._limit.dropped(now, under_way)
        self._breaker.failed(now, probe=probe)

    def refused(self, now: float, under_way: int, *, probe: bool) -> None:
        """The backend had too many calls: a matter for the limit, not for the breaker."""
        self._limit.dropped(now, under_way)
        self._breaker.abandoned(probe=probe)
