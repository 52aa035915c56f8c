"""What earlier days tell about a call: how late units usually were, and where each unit usually is.

The file of calls knows the day of a call but not its time, so everything of the same day counts as the future: what
is added becomes visible only when a later day is asked about.
"""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import date
from typing import Final

Group = tuple[str, str]
"""Station area and kind of unit."""
Place = tuple[float, float]
"""Latitude and longitude, in degrees."""

_PRIOR_CALLS: Final = 20.0
"""A group's mean weighs as much as the mean of all once it has this many calls."""
_FEWEST_CALLS: Final = 10
"""A unit's usual place is unknown until it has been seen this often."""
_DETOUR: Final = 1.3
"""Length of a way through a city's streets over the straight line: a common rule of thumb."""
_KM_PER_DEGREE: Final = 111.2
_FARTHEST_KM: Final = 200.0


class _Mean:
    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value


class _Centre:
    __slots__ = ("latitude", "longitude")

    def __init__(self) -> None:
        self.latitude = _Mean()
        self.longitude = _Mean()


class History:
    """Running means over strictly earlier days. Its size grows with the number of groups and units, not of calls."""

    def __init__(self) -> None:
        self._day = date.min
        self._today: list[tuple[Group, str, Place | None, float]] = []
        self._all = _Mean()
        self._groups: defaultdict[Group, _Mean] = defaultdict(_Mean)
        self._units: defaultdict[str, _Centre] = defaultdict(_Centre)

    def expected_delay(self, day: date, group: Group) -> float | None:
        """Gives the mean delay, in minutes, of `group` before `day`, shrunk to that of all; None without any past.

        Days must not go back; a later day than before closes the one before.
        """
        if day > self._day:
            self._close()
            self._day = day
        if self._all.count == 0:
            return None
        overall = self._all.total / self._all.count
        seen = self._groups.get(group)
        if seen is None:
            return overall
        return (seen.total + _PRIOR_CALLS * overall) / (seen.count + _PRIOR_CALLS)

    def distance_km(self, unit: str, place: Place) -> float | None:
        """Gives the way from where `unit` usually is to `place`; None when the unit has hardly been seen before."""
        centre = self._units.get(unit)
        if centre is None or centre.latitude.count < _FEWEST_CALLS:
            return None
        latitude = centre.latitude.total / centre.latitude.count
        longitude = centre.longitude.total / centre.longitude.count
        north = (place[0] - latitude) * _KM_PER_DEGREE
        # A city is small: a plane is exact enough (under 0.1 % at 20 km).
        east = (place[1] - longitude) * _KM_PER_DEGREE * math.cos(math.radians(latitude))
        distance = _DETOUR * math.hypot(north, east)
        return distance if distance <= _FARTHEST_KM else None

    def add(self, group: Group, unit: str, place: Place | None, delay_min: float) -> None:
        """Remembers a call of the current day, to be told from the next day on."""
        self._today.append((group, unit, place, delay_min))

    def _close(self) -> None:
        for group, unit, place, delay in self._today:
            self._all.add(delay)
            self._groups[group].add(delay)
            if place is not None:
                centre = self._units[unit]
                centre.latitude.add(place[0])
                centre.longitude.add(place[1])
        self._today.clear()
