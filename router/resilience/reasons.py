"""Why the rules, or another variant than the assigned one, answered."""

from __future__ import annotations

from enum import IntEnum


class Fallback(IntEnum):
    """Numbered as turnout.v1.FallbackReason."""

    NONE = 0
    UNAVAILABLE = 1
    CONNECTION = 2
    TIMEOUT = 3
    ERROR = 4
    INVALID = 5
    OVERLOADED = 6
    NO_TIME = 7
    ROUTER_AWAY = 8
    CANCELLED = 9
    LOW_CONFIDENCE = 10
    OUT_OF_DISTRIBUTION = 11
    BREAKER_OPEN = 12
    CONCURRENCY = 13
    ALERT = 14
    COLD_START = 15
    SHED = 16
