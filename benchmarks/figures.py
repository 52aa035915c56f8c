"""A measured figure beside its goal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. `goal` is the largest value that holds; None for a figure that is only printed."""

    name: str
    value: float
    unit: str
    goal: float | None

    @property
    def holds(self) -> bool:
        """Whether the goal is met; a figure without a goal always holds."""
        return self.goal is None or self.value <= self.goal

    def as_object(self) -> dict[str, object]:
        """Gives the object that `turnout bench -o json` prints."""
        goal = None if self.goal is None else f"<= {self.goal:g}"
        return {"name": self.name, "value": round(self.value, 4), "unit": self.unit, "goal": goal, "holds": self.holds}
