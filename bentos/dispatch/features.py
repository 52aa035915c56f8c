"""What the dispatch family knows about an assignment: the raw features, those computed from them, and the crew.

A row describes one unit that could be sent to one incident, at the moment of the decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from bentos.family import Engineered, Interval, Product
from bentos.schema import Category, Missing, Number, Schema

CALL_TYPES: Final = (
    "medical",
    "trauma",
    "cardiac",
    "breathing",
    "stroke",
    "fire",
    "alarm",
    "traffic",
    "rescue",
    "other",
)

SCHEMA: Final = Schema(
    (
        Number(
            name="severity",
            unit="level",
            low=1,
            high=5,
            description="How grave the incident is, from 1 (minor) to 5 (life-threatening).",
            missing=Missing.REJECT,
        ),
        Number(name="distance_km", unit="km", low=0, high=200, description="Way from the unit to the incident."),
        Number(name="availability", unit="1", low=0, high=1, description="Share of the region's units that are free."),
        Number(
            name="response_time_min",
            unit="min",
            low=0,
            high=240,
            description="Time that the unit is expected to need until it is at the incident.",
        ),
        Number(
            name="expertise",
            unit="1",
            low=0,
            high=1,
            description="Fit of the crew's training to this kind of call.",
        ),
        Number(name="patient_age", unit="year", low=0, high=120, description="Age of the patient."),
        Number(name="total_paramedics", unit="person", low=0, high=20, description="Paramedics in the crew."),
        Number(name="senior_ratio", unit="1", low=0, high=1, description="Share of the crew that is senior."),
        Number(
            name="average_satisfaction",
            unit="point",
            low=0,
            high=5,
            description="Mean satisfaction score of the crew's past assignments.",
        ),
        Number(name="hour", unit="h", low=0, high=24, description="Local time of day, fractions allowed."),
        Number(name="weekday", unit="day", low=0, high=6, description="Day of the week, 0 = Monday to 6 = Sunday."),
        Category(name="call_type", values=CALL_TYPES, description="Kind of call."),
    )
)


class DispatchRow(NamedTuple):
    """One row, in the schema's order; NaN stands for what is not known, `call_type` is an index of CALL_TYPES."""

    severity: float
    distance_km: float
    availability: float
    response_time_min: float
    expertise: float
    patient_age: float
    total_paramedics: float
    senior_ratio: float
    average_satisfaction: float
    hour: float
    weekday: float
    call_type: float


_INTERACTIONS: Final = (
    Product("severity_x_distance", "severity", "distance_km"),
    Product("availability_x_response_time", "availability", "response_time_min"),
    Product("expertise_x_age", "expertise", "patient_age"),
    Product("severity_squared", "severity", "severity"),
    Product("distance_squared", "distance_km", "distance_km"),
    Product("response_time_squared", "response_time_min", "response_time_min"),
)

_TIMES: Final = (
    Interval("morning_peak", "hour", 7, 10),
    Interval("evening_peak", "hour", 16, 19),
    Interval("morning", "hour", 6, 12),
    Interval("afternoon", "hour", 12, 18),
    Interval("night", "hour", 22, 6),
    Interval("weekend", "weekday", 5, 7),
)

ENGINEERED: Final[tuple[Engineered, ...]] = (
    *_INTERACTIONS,
    *_TIMES,
    *(Interval(f"is_{name}", "call_type", code, code + 1) for code, name in enumerate(CALL_TYPES)),
)


class CrewMember(NamedTuple):
    """A member of a crew; `satisfaction` is the mean score of past assignments (0 to 5), None when not known."""

    paramedic: bool
    senior: bool
    satisfaction: float | None = None


class Crew(NamedTuple):
    """What a crew contributes to a row; NaN for what is not known."""

    total_paramedics: float
    senior_ratio: float
    average_satisfaction: float


def crew(members: Iterable[CrewMember]) -> Crew:
    """Aggregates a crew: number of paramedics, share of seniors, mean of the known satisfaction scores.

    An empty crew is a crew that nobody told us about, so all three are NaN.
    """
    people = tuple(members)
    if not people:
        return Crew(math.nan, math.nan, math.nan)
    scores = [member.satisfaction for member in people if member.satisfaction is not None]
    return Crew(
        total_paramedics=float(sum(member.paramedic for member in people)),
        senior_ratio=sum(member.senior for member in people) / len(people),
        average_satisfaction=sum(scores) / len(scores) if scores else math.nan,
    )
