"""A clock that a test can step: on the path of one process only, and never in production.

Python imports this before anything else. The wall clock that our code reads (`time.time_ns`) is shifted by the seconds
in the file that CHAOS_CLOCK names. Monotonic time is left alone, as an operating system does; so is `time.time`, from
which grpc makes deadlines that its core compares with a clock that cannot be shifted from here.
"""

from __future__ import annotations

import os
import time

_FILE = os.environ.get("CHAOS_CLOCK")
_REAL_NS = time.time_ns
_seen = [0.0, 0]


def _offset_ns() -> int:
    now = time.monotonic()
    if now - _seen[0] > 0.05:
        _seen[0] = now
        try:
            with open(str(_FILE), encoding="ascii") as file:  # noqa: PTH123 - nothing else is imported so early
                _seen[1] = int(file.read() or 0) * 1_000_000_000
        except (OSError, ValueError):
            pass
    return int(_seen[1])


if _FILE:
    time.time_ns = lambda: _REAL_NS() + _offset_ns()
