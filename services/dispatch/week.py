"""How calls spread over a week."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class WeekShape:
    """Relative rate of calls: 24 hours of a working day, 24 of a weekend day, 7 weekdays (0 = Monday); means of 1."""

    working: tuple[float, ...]
    weekend: tuple[float, ...]
    days: tuple[float, ...]

    def at(self, hour: float, weekday: int) -> float:
        """Relative rate at an hour (0 to 24) of a weekday."""
        hours = self.weekend if weekday >= 5 else self.working
        return hours[int(hour) % 24] * self.days[weekday]

    @property
    def highest(self) -> float:
        """The highest relative rate of the week."""
        return max(self.at(hour, day) for day in range(7) for hour in range(24))


FLAT: Final = WeekShape((1.0,) * 24, (1.0,) * 24, (1.0,) * 7)
"""The same rate at all times, as the JEMSS configurations have it."""

# fmt: off
RIO: Final = WeekShape(
    working=(0.52, 0.43, 0.35, 0.32, 0.29, 0.42, 0.74, 1.08, 1.43, 1.69, 1.83, 1.74,
             1.59, 1.51, 1.31, 1.24, 1.21, 1.15, 1.09, 1.01, 0.89, 0.83, 0.71, 0.62),
    weekend=(0.66, 0.59, 0.52, 0.50, 0.44, 0.51, 0.74, 0.95, 1.23, 1.48, 1.67, 1.61,
             1.51, 1.42, 1.22, 1.24, 1.18, 1.11, 1.05, 1.01, 0.93, 0.86, 0.82, 0.74),
    days=(1.082, 1.029, 0.997, 1.005, 0.978, 0.987, 0.922),
)
# fmt: on
"""Shape of 223 388 calls to the ambulances of Rio de Janeiro on ordinary days.

Computed from the counts by half-hour and weekday published with LASPATED (github.com/vguigues/LASPATED,
arXiv:2401.04156). Two readings of ours, which the data do not state: its weekday 0 is a Friday (the counts of 1 and 2
look like a weekend), and its hours are UTC (the night's lowest point lies at 7), so that they are moved by three.
"""
