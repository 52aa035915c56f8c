"""One assignment of a unit from dispatch to the moment when it is clear again."""

from __future__ import annotations

from typing import NamedTuple

from services.dispatch.city import City
from services.dispatch.incidents import Incident
from services.dispatch.outcomes import expected_travel_min, fit_probability, true_travel_min, turnout_min


class Tour(NamedTuple):
    """One assignment, in minutes since the simulation's start. `unit` is an index into the city's units.

    `rolled` is when the unit left, `hospital` an index into the city's hospitals, or -1 without transport.
    """

    unit: int
    call: int
    dispatched: float
    rolled: float
    arrived: float
    cleared: float
    hospital: int
    on_time: bool
    success: bool


def plan_tour(city: City, incident: Incident, index: int, unit: int, base: int) -> Tour:
    """Works out what happens when a candidate is sent.

    Args:
        city: the city.
        incident: the incident.
        index: the candidate's.
        unit: the candidate's index among the city's units.
        base: where the unit is: index of a station, or of a hospital after all stations.
    """
    call, travel, candidate = incident.call, city.travel, incident.candidates[index]
    average = float(travel.to_call[city.mode(incident.minute, call.priority), base, call.place])
    distance = float(travel.to_call_km[base, call.place])
    rolled = incident.minute + turnout_min(call.mobilisation, candidate.availability)
    arrived = rolled + true_travel_min(average, distance, call.travel_noise, incident.hour, incident.weekday)
    cleared, hospital = arrived + call.on_scene, -1
    if call.transport:
        ways = travel.back[len(city.stations) :, call.place]
        hospital = int(ways.argmin())
        cleared += expected_travel_min(float(ways[hospital]), incident.hour, incident.weekday) + call.handover
    on_time = arrived - call.minute <= incident.target_min
    fits = call.fit_draw < fit_probability(call, candidate.unit, incident.hour)
    return Tour(unit, call.number, incident.minute, rolled, arrived, cleared, hospital, on_time, on_time and fits)
