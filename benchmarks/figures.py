"""A measured figure beside its goal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum


class Bound(Enum):
    """On which side of its goal a figure holds."""

    AT_MOST = "<="
    AT_LEAST = ">="


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. `goal` is the largest, or the smallest, value that holds; None for one that is only printed."""

    name: str
    value: float
    unit: str
    goal: float | None
    bound: Bound = Bound.AT_MOST

    @property
    def holds(self) -> bool:
        """Whether the goal is met; a figure without a goal always holds, a value that is not a number never does."""
        if self.goal is None:
            return True
        return self.value <= self.goal if self.bound is Bound.AT_MOST else self.value >= self.goal

    @property
    def goal_text(self) -> str | None:
        """The goal as people write it, or None."""
        return None if self.goal is None else f"{self.bound.value} {self.goal:g}"

    def as_object(self) -> dict[str, object]:
        """Gives the object that `turnout bench -o json` prints."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "unit": self.unit,
            "goal": self.goal_text,
            "holds": self.holds,
        }


@dataclass(frozen=True, slots=True)
class Topic:
    """Figures that are measured together."""

    names: Sequence[str]
    """The figures, in the order in which they come."""
    measure: Callable[[Callable[[str], None], Callable[[str], None]], Iterator[Figure]]
    """Measures; called with `progress`, which hears what is being done, and `say`, for what should remain readable."""
