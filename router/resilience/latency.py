"""The 95th percentile of a backend's latency, over its last answers."""

from __future__ import annotations

from typing import Final

_KEPT: Final = 128
_EVERY: Final = 32
_SHARE: Final = 0.95


class Latency:
    """Remembers the last 128 latencies and sorts them once every 32 answers: what a call costs is a store."""

    __slots__ = ("_count", "_ring", "p95")

    def __init__(self) -> None:
        self._ring: list[float] = []
        self._count = 0
        self.p95: float | None = None
        """In seconds; None before there were 32 answers."""

    def add(self, seconds: float) -> None:
        """Notes a latency in seconds."""
        count = self._count
        if len(self._ring) < _KEPT:
            self._ring.append(seconds)
        else:
            self._ring[count % _KEPT] = seconds
        self._count = count = count + 1
        if count % _EVERY == 0:
            self.p95 = sorted(self._ring)[int(_SHARE * len(self._ring))]
