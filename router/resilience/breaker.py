"""A circuit breaker: stops asking a backend that keeps failing, and finds out with one call at a time when it is back.

    closed ── 5 failures in a row, or half of ≥ 20 in 10 s ──▶ open ── 1 s → 30 s, or `recovered` ──▶ half-open
      ▲                                                          ▲                                        │
      └──────────────── the one probe succeeded ─────────────────┼──────── the one probe failed ──────────┘

Laws, held by tests/unit/test_resilience_breaker.py: an open breaker lets nothing through before its time unless the
backend was seen to be well; in half-open exactly one call is out; a success of the probe closes; the n-th opening in a
row lasts min(30 s, 2^(n−1) s), stretched by up to a fifth by chance, so that routers do not come back in step.
Results of calls that were let through before the breaker opened are not the probe's, and change nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

JITTER: Final = 0.2
_LARGEST_POWER: Final = 16


class BreakerState(Enum):
    """What a breaker does with calls."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a breaker opens and for how long. Times in seconds."""

    failures_in_a_row: int = 5
    share: float = 0.5
    fewest: int = 20
    window_seconds: float = 10.0
    first_open_seconds: float = 1.0
    longest_open_seconds: float = 30.0


DEFAULT_BREAKER: Final = BreakerSettings()


class Breaker:
    """The breaker of one backend. `chance` gives numbers in [0, 1); instants are in seconds of any monotonic clock."""

    __slots__ = (
        "_bucket",
        "_buckets",
        "_chance",
        "_failed",
        "_in_a_row",
        "_openings",
        "_probing",
        "_settings",
        "_total",
        "_until",
        "opened",
        "state",
    )
    _PARTS: Final = 10

    def __init__(self, settings: BreakerSettings, chance: Callable[[], float]) -> None:
        self._settings = settings
        self._chance = chance
        self.state = BreakerState.CLOSED
        self.opened = 0
        """How often it opened so far."""
        self._in_a_row = 0
        self._openings = 0
        self._until = 0.0
        self._probing = False
        # The window in ten parts: [number of the part, calls, failures], and their sums.
        self._buckets: deque[list[int]] = deque()
        self._bucket: list[int] | None = None
        self._total = 0
        self._failed = 0

    def ready(self, now: float) -> bool:
        """Tells whether `enter` would let a call through; changes nothing but open to half-open when it is time."""
        if self.state is BreakerState.CLOSED:
            return True
        if self.state is BreakerState.OPEN and now >= self._until:
            self.state = BreakerState.HALF_OPEN
        return self.state is BreakerState.HALF_OPEN and not self._probing

    def enter(self) -> bool:
        """Takes note that a call goes out, after `ready`; gives whether it is the probe."""
        if self.state is BreakerState.CLOSED:
            return False
        self._probing = True
        return True

    def succeeded(self, now: float, *, probe: bool) -> None:
        """A call was answered in time. `probe` is what its `enter` gave."""
        if self.state is BreakerState.CLOSED:
            self._in_a_row = 0
            self._note(now, failed=0)
        elif probe:
            self._close()

    def failed(self, now: float, *, probe: bool) -> None:
        """A call failed, or was too slow."""
        if self.state is BreakerState.CLOSED:
            self._in_a_row += 1
            self._note(now, failed=1)
            settings = self._settings
            many = self._total >= settings.fewest and self._failed >= settings.share * self._total
            if many or self._in_a_row >= settings.failures_in_a_row:
                self._open(now)
        elif probe:
            self._open(now)

    def abandoned(self, *, probe: bool) -> None:
        """A call ended without telling anything about the backend (its caller left): another may be the probe."""
        if probe:
            self._probing = False

    def recovered(self) -> None:
        """The backend was seen to be well by other means: the next call is the probe, whatever time is left."""
        if self.state is BreakerState.OPEN:
            self.state = BreakerState.HALF_OPEN

    def _note(self, now: float, failed: int) -> None:
        part = int(now * self._PARTS / self._settings.window_seconds)
        bucket = self._bucket
        if bucket is None or bucket[0] != part:
            bucket = self._bucket = [part, 0, 0]
            self._buckets.append(bucket)
            while self._buckets[0][0] <= part - self._PARTS:
                _, calls, failures = self._buckets.popleft()
                self._total -= calls
                self._failed -= failures
        bucket[1] += 1
        bucket[2] += failed
        self._total += 1
        self._failed += failed

    def _open(self, now: float) -> None:
        settings = self._settings
        power = min(self._openings, _LARGEST_POWER)
        seconds = min(settings.first_open_seconds * 2.0**power, settings.longest_open_seconds)
        self._until = now + seconds * (1 + JITTER * self._chance())
        self._openings += 1
        self.opened += 1
        self.state = BreakerState.OPEN
        self._probing = False

    def _close(self) -> None:
        self.state = BreakerState.CLOSED
        self._in_a_row = self._openings = 0
        self._probing = False
        self._buckets.clear()
        self._bucket = None
        self._total = self._failed = 0
