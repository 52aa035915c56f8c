"""Calls as a non-homogeneous Poisson process over hour, weekday, place and priority.

The intensity is (mean calls a day of the city) x (shape of the week) and is sampled by thinning: candidates come at
the highest rate, and each is kept with the probability rate(t) / highest rate (Lewis and Shedler 1979, "Simulation of
nonhomogeneous Poisson processes by thinning"). Everything random about a call that no decision can change is drawn
here, so that two policies with one seed face the very same calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from services.dispatch.city import City
from services.dispatch.roads import Floats
from services.dispatch.week import WeekShape

MINUTES_PER_DAY: Final = 1440.0
MINUTES_PER_WEEK: Final = 7 * MINUTES_PER_DAY


# Relative share of each call type, in the order of CALL_TYPES, from the most severe (5) to the least (1).
_TYPE_SHARES: Final = np.array(
    [
        [0.16, 0.12, 0.26, 0.18, 0.12, 0.04, 0.01, 0.07, 0.03, 0.01],
        [0.24, 0.16, 0.15, 0.16, 0.09, 0.04, 0.02, 0.09, 0.03, 0.02],
        [0.36, 0.18, 0.06, 0.10, 0.03, 0.03, 0.05, 0.10, 0.03, 0.06],
        [0.40, 0.18, 0.02, 0.06, 0.01, 0.03, 0.11, 0.07, 0.03, 0.09],
        [0.38, 0.14, 0.01, 0.03, 0.00, 0.02, 0.20, 0.04, 0.03, 0.15],
    ]
)
_MEAN_AGE: Final = (58.0, 38.0, 68.0, 55.0, 71.0, 42.0, 45.0, 36.0, 40.0, 48.0)
_AGE_SPREAD: Final = 19.0
_AGE_UNKNOWN: Final = 0.08
_NIGHT_EXTRA: Final = 1.3
_CENTRE_BY_DAY: Final = 0.35
_CENTRE_BY_NIGHT: Final = 0.1


class Call(NamedTuple):
    """A call, with everything that was fixed before anybody decided.

    Times are minutes, `minute` since the simulation's start. `place` is an index into the city's call nodes.
    `travel_noise` is a standard normal number, `fit_draw` uniform in [0, 1).
    """

    number: int
    minute: float
    place: int
    priority: int
    severity: int
    call_type: int
    patient_age: float | None
    dispatch_delay: float
    mobilisation: float
    on_scene: float
    transport: bool
    handover: float
    travel_noise: float
    fit_draw: float


def weekday_and_hour(minute: float, start_weekday: int = 0) -> tuple[int, float]:
    """Gives the weekday (0 = Monday) and the hour (0 to 24) at a minute after a midnight of `start_weekday`."""
    day, rest = divmod(minute, MINUTES_PER_DAY)
    return (int(day) + start_weekday) % 7, rest / 60.0


def arrivals(city: City, seed: int, *, shape: WeekShape | None = None, start_weekday: int = 0) -> Iterator[Call]:
    """Draws calls in order of time, without end unless the last demand period has none.

    The same arguments give the same calls.

    Args:
        city: the city, whose rates count.
        seed: seed of everything about the calls.
        shape: shape of the week; None takes the city's.
        start_weekday: weekday of minute 0, 0 = Monday.
    """
    shape = shape or city.week
    rng = np.random.default_rng((seed, 0xCA11))
    sampler = _Sampler(city, rng)
    number = 0
    ends = [period.start_min for period in city.demand[1:]] + [math.inf]
    begin = 0.0
    for period, end in zip(city.demand, ends, strict=True):
        for minute, weekday, hour in _period(sum(period.calls_per_day), (begin, end), shape, start_weekday, rng):
            number += 1
            yield sampler.call(number, minute, weekday, hour)
        begin = end


def _period(
    daily: float, span: tuple[float, float], shape: WeekShape, start_weekday: int, rng: np.random.Generator
) -> Iterator[tuple[float, int, float]]:
    """Gives minute, weekday and hour of each call of one demand period; a period without calls has none."""
    minute, end = span
    highest = daily * shape.highest / MINUTES_PER_DAY
    if highest <= 0.0:
        return
    while True:
        # The process has no memory, so each period may start afresh with its own highest rate.
        minute += float(rng.exponential(1.0 / highest))
        if minute >= end:
            return
        weekday, hour = weekday_and_hour(minute, start_weekday)
        if rng.random() * shape.highest < shape.at(hour, weekday):
            yield minute, weekday, hour


class _Sampler:
    """Draws what a call is, given when it comes."""

    def __init__(self, city: City, rng: np.random.Generator) -> None:
        self._city = city
        self._rng = rng
        self._places = np.cumsum(city.place_weight, axis=1)
        self._types = np.cumsum(_TYPE_SHARES, axis=1)

    def call(self, number: int, minute: float, weekday: int, hour: float) -> Call:
        rng, times = self._rng, self._city.times
        priority = _priority(self._city.rates(minute), hour, rng)
        band = self._city.priorities[priority].severities
        severity = band[int(rng.integers(len(band)))]
        kind = self._pick(self._types[5 - severity])
        unknown = rng.random() < _AGE_UNKNOWN
        age = round(float(np.clip(rng.normal(_MEAN_AGE[kind], _AGE_SPREAD), 0.0, 105.0)))
        return Call(
            number=number,
            minute=minute,
            place=self._place(weekday, hour),
            priority=priority,
            severity=severity,
            call_type=kind,
            patient_age=None if unknown else float(age),
            dispatch_delay=times.dispatch_delay.sample(rng),
            mobilisation=times.mobilisation.sample(rng),
            on_scene=times.on_scene.sample(rng),
            transport=bool(rng.random() < times.transport),
            handover=times.handover.sample(rng),
            travel_noise=float(rng.standard_normal()),
            fit_draw=float(rng.random()),
        )

    def _place(self, weekday: int, hour: float) -> int:
        working_hours = weekday < 5 and 8 <= hour < 18
        centre = self._rng.random() < (_CENTRE_BY_DAY if working_hours else _CENTRE_BY_NIGHT)
        return self._pick(self._places[int(centre)])

    def _pick(self, cumulative: Floats) -> int:
        mark = self._rng.random() * cumulative[-1]
        return min(int(np.searchsorted(cumulative, mark, side="right")), len(cumulative) - 1)


def _priority(rates: tuple[float, ...], hour: float, rng: np.random.Generator) -> int:
    """Draws a priority by the city's rates; at night, between midnight and six, the most urgent weighs 1.3 times."""
    weights = list(rates)
    if hour < 6:
        weights[0] *= _NIGHT_EXTRA
    mark = float(rng.random()) * sum(weights)
    for priority, weight in enumerate(weights):
        mark -= weight
        if mark < 0:
            return priority
    return max(index for index, weight in enumerate(weights) if weight > 0)
