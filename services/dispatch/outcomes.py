"""The simulated world's own laws, which no dispatcher sees: how long the way really takes, whether the crew fits.

The features carry enough of them for a model to learn: traffic slows by the hour, and most where streets are slow
anyway (distance over expected time tells); a district whose units are nearly all out turns out later (availability);
a crew's fit decides more the graver the call and the older the patient. The constants are choices, tuned so that a
model reaches the quality that the family's reference states, and are no measurements of a real service.
"""

from __future__ import annotations

import math
from typing import Final

from services.dispatch.arrivals import Call
from services.dispatch.city import Unit

# Extra travel time at full density, by hour; the published expectation knows half of it.
_WORKING: Final = (
    (-0.08,) * 6 + (0.0, 0.30, 0.45, 0.25, 0.10, 0.10, 0.15, 0.12, 0.12, 0.25, 0.45, 0.50, 0.28, 0.08) + (-0.04,) * 4
)
_WEEKEND: Final = (-0.08,) * 8 + (-0.04, 0.0, 0.05, 0.10, 0.12, 0.12, 0.10, 0.10, 0.10, 0.08, 0.05, 0.02) + (-0.04,) * 4
_WEEKLY_MEAN: Final = (5 * sum(_WORKING) + 2 * sum(_WEEKEND)) / (7 * 24)
_FAST_KMH: Final = 55.0
_SLOW_KMH: Final = 25.0
_NOISE: Final = 0.09
_STRETCHED_MIN: Final = 2.0


def congestion(hour: float, weekday: int) -> float:
    """Extra share of travel time at an hour (0 to 24) of a weekday; over the whole week its mean is 0.

    So the travel times of a city are those of an average hour.
    """
    return (_WEEKEND if weekday >= 5 else _WORKING)[int(hour) % 24] - _WEEKLY_MEAN


def expected_travel_min(average_min: float, hour: float, weekday: int) -> float:
    """What the dispatcher expects: the average, and a city-wide correction for the hour."""
    return average_min * (1.0 + 0.5 * congestion(hour, weekday))


def true_travel_min(average_min: float, distance_km: float, noise: float, hour: float, weekday: int) -> float:
    """What the way really takes.

    Args:
        average_min: minutes in an average hour.
        distance_km: length of the way.
        noise: a standard normal number; it moves the time by 9 % a unit.
        hour: 0 to 24.
        weekday: 0 = Monday.
    """
    kmh = 60.0 * distance_km / max(average_min, 1e-6)
    density = min(max((_FAST_KMH - kmh) / (_FAST_KMH - _SLOW_KMH), 0.0), 1.0)
    return average_min * (1.0 + (0.3 + 1.2 * density) * congestion(hour, weekday)) * math.exp(_NOISE * noise)


def turnout_min(mobilisation_min: float, availability: float) -> float:
    """Minutes until the unit rolls: later where the district's units are nearly all out."""
    return mobilisation_min + _STRETCHED_MIN * max(0.0, 0.7 - availability)


def fit_probability(call: Call, unit: Unit, hour: float) -> float:
    """Probability that the crew can do what the call asks for."""
    expertise = unit.expertise[call.call_type]
    age = 50.0 if call.patient_age is None else call.patient_age
    demand = 0.215 + 0.055 * (call.severity - 1) + 0.0015 * max(age - 65.0, 0.0)
    tired = 0.05 if hour < 6 else 0.0
    skill = expertise + 0.08 * unit.senior_ratio + 0.05 * (unit.satisfaction - 3.5) + 0.02 * unit.paramedics
    return 1.0 / (1.0 + math.exp(-20.0 * (skill - demand - tired)))
