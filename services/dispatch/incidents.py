"""What a simulation tells its driver: incidents that need a decision, and how earlier decisions ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from bentos.dispatch.features import CALL_TYPES
from services.dispatch.arrivals import Call
from services.dispatch.city import Unit

MAX_CANDIDATES: Final = 6

Features = dict[str, float | str | bool]
"""Raw features of the dispatch family by name; what is not known is left out."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A free unit, as the dispatcher sees it.

    `distance_km` is by road, `availability` the share of its district's units that are free, and `response_time_min`
    the expected time from now until it is at the incident.
    """

    unit: Unit
    distance_km: float
    availability: float
    response_time_min: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """An incident that needs a decision, with the free units that are expected there first, nearest first.

    `at` is the time of the decision in seconds since 1970-01-01T00:00Z, which counts as local time; `minute` is the
    same in minutes since the simulation's start. `waited_min` is the time since the call.
    """

    incident_id: str
    call: Call
    at: float
    minute: float
    hour: float
    weekday: int
    region: str
    target_min: float
    waited_min: float
    candidates: tuple[Candidate, ...]

    def features(self, index: int) -> Features:
        """Raw features of sending one candidate, by name."""
        candidate, call = self.candidates[index], self.call
        unit = candidate.unit
        row: Features = {
            "severity": float(call.severity),
            "distance_km": candidate.distance_km,
            "availability": candidate.availability,
            "response_time_min": candidate.response_time_min,
            "expertise": unit.expertise[call.call_type],
            "total_paramedics": float(unit.paramedics),
            "senior_ratio": unit.senior_ratio,
            "average_satisfaction": unit.satisfaction,
            "hour": self.hour,
            "weekday": float(self.weekday),
            "call_type": CALL_TYPES[call.call_type],
        }
        if call.patient_age is not None:
            row["patient_age"] = call.patient_age
        return row

    def decision_id(self, index: int) -> str:
        """Id of the decision to send one candidate: the incident's id and the unit's."""
        return f"{self.incident_id}:{self.candidates[index].unit.unit_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeKnown:
    """An incident was closed: now it is known how the assignment went.

    `at` and `minute` are as for `Incident`; `response_min` runs from the call until the unit was at the incident.
    """

    decision_id: str
    incident_id: str
    unit_id: str
    region: str
    priority: int
    at: float
    minute: float
    response_min: float
    on_time: bool
    success: bool


Event = Incident | OutcomeKnown


class Policy(Protocol):
    """Decides which candidate is sent."""

    def __call__(self, incident: Incident, /) -> int:
        """Gives the index of the chosen candidate."""
