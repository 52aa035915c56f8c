"""How a caller's time is shared out: so much for the arm, the rest kept back for the rules and the way home."""

from __future__ import annotations

from typing import Final

ARM_SHARE: Final = 0.6
RESERVE_SECONDS: Final = 0.05
LONGEST_DEADLINE_SECONDS: Final = 5.0
SHORTEST_BUDGET_SECONDS: Final = 0.001
REPEAT_RESERVE_SECONDS: Final = 0.01
"""What a repeated call keeps back of its time when it waits for the first call's answer."""


def arm_budget(time_left: float) -> float:
    """Seconds that an arm may take out of the caller's seconds; 0 when there is no point in asking.

    The same holds for each arm that is asked after another one: it gets its share of what is left then.
    """
    budget = min(ARM_SHARE * time_left, time_left - RESERVE_SECONDS)
    return budget if budget >= SHORTEST_BUDGET_SECONDS else 0.0
