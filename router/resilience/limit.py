"""An adaptive limit of the calls under way at one backend: as many as it answers without making them queue.

The limit follows the latency, as in gradient limiters (Netflix's concurrency-limits) and, before them, TCP Vegas
(Brakmo and Peterson 1995): once a window the mean latency is compared with the lowest mean of the last minute. While
it stays within twice that and 10 ms, and at least half of the limit is in use, the limit grows by its square root;
beyond, it shrinks in proportion, to the half at most. A call that the backend refused or did not answer in time takes
a tenth off, once a window. Frames make calls wait up to 2 ms for each other on purpose: hence the 10 ms of slack.

Laws, held by tests/unit/test_resilience_limit.py: always within [lowest, highest]; never grows when less than half of
it is used; never grows in a window with drops; a backend that answers k calls at a time ends up with a limit that
keeps it busy and its queue within the slack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """Bounds and pace of an adaptive limit. Times in seconds."""

    lowest: int = 4
    highest: int = 4096
    first: int = 512
    window_seconds: float = 0.1
    fewest_samples: int = 10
    tolerance: float = 2.0
    slack_seconds: float = 0.01
    memory_seconds: float = 30.0
    """A baseline is forgotten after one to two of these, so that a slower version is not held to a faster one's."""


DEFAULT_LIMIT: Final = LimitSettings()
_SHARPEST: Final = 0.5
_DROP: Final = 0.9


class AdaptiveLimit:
    """The limit of one backend. Instants are in seconds of any monotonic clock."""

    __slots__ = (
        "_baseline",
        "_before",
        "_dropped",
        "_exact",
        "_most",
        "_samples",
        "_settings",
        "_since",
        "_sum",
        "_window_ends",
        "limit",
    )

    def __init__(self, settings: LimitSettings) -> None:
        self._settings = settings
        self._exact = float(settings.first)
        self.limit = settings.first
        """Calls that may be under way now."""
        self._baseline = math.inf
        self._before = math.inf
        self._since = 0.0
        self._window_ends = 0.0
        self._sum = 0.0
        self._samples = 0
        self._most = 0
        self._dropped = False

    def answered(self, now: float, seconds: float, under_way: int) -> None:
        """Notes an answer: how long it took, and how many calls were under way with it."""
        self._sum += seconds
        self._samples += 1
        self._most = max(self._most, under_way)
        if now >= self._window_ends:
            self._end_window(now)

    def dropped(self, now: float, under_way: int) -> None:
        """Notes a call that the backend refused for load, or did not answer in time."""
        self._dropped = True
        self._most = max(self._most, under_way)
        if now >= self._window_ends:
            self._end_window(now)

    def _begin_window(self) -> None:
        self._sum = 0.0
        self._samples = 0
        self._most = 0
        self._dropped = False

    def _end_window(self, now: float) -> None:
        settings = self._settings
        if not self._dropped and self._samples < settings.fewest_samples:
            return
        if self._dropped:
            self._set(self._exact * _DROP)
        if self._samples:
            self._follow(now, self._sum / self._samples)
        self._window_ends = now + settings.window_seconds
        self._begin_window()

    def _follow(self, now: float, mean: float) -> None:
        settings = self._settings
        if now - self._since > settings.memory_seconds:
            self._before, self._baseline, self._since = self._baseline, math.inf, now
        self._baseline = min(self._baseline, mean)
        usual = min(self._baseline, self._before)
        allowed = settings.tolerance * usual + settings.slack_seconds
        if mean > allowed:
            self._set(self._exact * max(_SHARPEST, allowed / mean))
        elif not self._dropped and self._most * 2 >= self._exact:
            self._set(self._exact + math.sqrt(self._exact))

    def _set(self, exact: float) -> None:
        self._exact = min(max(exact, float(self._settings.lowest)), float(self._settings.highest))
        self.limit = int(self._exact)
