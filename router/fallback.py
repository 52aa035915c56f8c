"""When the rules answer instead of the arm; see `router.resilience`."""

from __future__ import annotations

from router.resilience.budget import LONGEST_DEADLINE_SECONDS, arm_budget
from router.resilience.reasons import Fallback
from router.resilience.validity import valid_range

__all__ = ["LONGEST_DEADLINE_SECONDS", "Fallback", "arm_budget", "valid_range"]
