"""When the rules answer instead of the arm: how much time the arm gets, and whether its answer may be used."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from bentos.family import Target

ARM_SHARE: Final = 0.6
RESERVE_SECONDS: Final = 0.05
LONGEST_DEADLINE_SECONDS: Final = 5.0
SHORTEST_BUDGET_SECONDS: Final = 0.001


class Fallback(IntEnum):
    """Why the rules answered; numbered as turnout.v1.FallbackReason."""

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


def arm_budget(time_left: float) -> float:
    """Seconds that the arm may take out of the caller's seconds; 0 when there is no point in asking."""
    budget = min(ARM_SHARE * time_left, time_left - RESERVE_SECONDS)
    return budget if budget >= SHORTEST_BUDGET_SECONDS else 0.0


def valid_range(target: Target) -> tuple[float, float]:
    """Gives the smallest and the largest answer that may be used: the target's range, with room for float32."""
    slack = 1e-6 * max(1.0, abs(target.low), abs(target.high))
    return target.low - slack, target.high + slack
