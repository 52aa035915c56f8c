"""The simulation: calls arrive, units are sent, are busy and come back; a decision changes what happens next.

A unit's tour: turn-out and way to the incident, time on scene, with some probability the way to the nearest hospital
and the hand-over there, the way back to its station. On its way back it may be sent again: it counts as being at the
base that it is nearer to, so at the hospital for the first half of the way and at its station for the second; one that
comes straight from a scene is out of reach for the first half. Calls that find no unit wait, the most urgent first.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterable, Iterator
from enum import IntEnum
from typing import Final

import numpy as np

from services.dispatch.arrivals import Call, weekday_and_hour
from services.dispatch.city import City
from services.dispatch.incidents import MAX_CANDIDATES, Candidate, Event, Incident, OutcomeKnown, Policy
from services.dispatch.outcomes import expected_travel_min
from services.dispatch.tours import Tour, plan_tour

START: Final = 1_704_067_200.0
"""2024-01-01T00:00Z, a Monday: where a simulation starts unless told otherwise."""


class _Step(IntEnum):
    """Kinds of things that happen, in the order in which those of one moment are handled."""

    CLOSED = 0
    CLEAR = 1
    NEAR_HOME = 2
    CALLED = 3
    DECIDE = 4


class Simulation:
    """A run over one city and one stream of calls.

    Drive it with `next_event` and `dispatch`, or through `events`, or with a policy through `run`.

    Args:
        city: the city.
        calls: calls in order of time; the run ends when they have ended and every unit is home.
        name: begins the incidents' ids, which are `<name>-<number of the call>`.
        start: when minute 0 is, in seconds since 1970-01-01T00:00Z; a midnight.
        candidates: how many free units are offered for an incident, 1 to 6.
    """

    def __init__(
        self, city: City, calls: Iterable[Call], *, name: str, start: float = START, candidates: int = MAX_CANDIDATES
    ) -> None:
        if not 1 <= candidates <= MAX_CANDIDATES:
            raise ValueError(f"candidates must be from 1 to {MAX_CANDIDATES}, not {candidates}")
        self.city = city
        self.name = name
        self.now = 0.0
        self.handled = 0
        self._start = start
        # 1970-01-01 was a Thursday.
        self._start_weekday = (int(start // 86_400) + 3) % 7
        self._calls = iter(calls)
        self._candidates = candidates
        self._agenda: list[tuple[float, int, int, object]] = []
        self._sequence = 0
        self._waiting: list[tuple[int, float, Call]] = []
        self._pending: Incident | None = None
        self._index = {unit.unit_id: index for index, unit in enumerate(city.units)}
        homes = np.array([unit.station for unit in city.units])
        self._home = homes
        self._base = homes.copy()
        self._turns = np.zeros(len(homes), dtype=np.int64)
        self._free = np.ones(len(homes), dtype=bool)
        self._fleet = np.bincount(homes, minlength=len(city.stations))
        self._free_at = self._fleet.copy()
        self._turnout = max(city.times.mobilisation.mean, 0.0)
        self._take_call()

    @property
    def waiting(self) -> int:
        """How many calls wait for a unit."""
        return len(self._waiting)

    @property
    def free_units(self) -> int:
        """How many units can be sent."""
        return int(self._free.sum())

    def next_event(self) -> Event | None:
        """Moves on to the next event that concerns the driver; None when the run is over.

        Raises:
            RuntimeError: the last incident still waits for its decision.
        """
        if self._pending is not None:
            raise RuntimeError("the last incident still waits for its decision")
        while self._agenda:
            self.now, step, _, what = heapq.heappop(self._agenda)
            self.handled += 1
            event = self._handle(_Step(step), what)
            if event is not None:
                return event
        return None

    def dispatch(self, index: int) -> Tour:
        """Sends the candidate of that index to the incident that `next_event` gave last.

        Raises:
            RuntimeError: no incident waits for a decision.
            IndexError: there is no such candidate.
        """
        incident = self._pending
        if incident is None:
            raise RuntimeError("no incident waits for a decision")
        if not 0 <= index < len(incident.candidates):
            raise IndexError(f"the index must be under {len(incident.candidates)}, not {index}")
        self._pending = None
        chosen = incident.candidates[index].unit
        unit = self._index[chosen.unit_id]
        tour = plan_tour(self.city, incident, index, unit, int(self._base[unit]))
        self._free[unit] = False
        self._free_at[self._home[unit]] -= 1
        self._turns[unit] += 1
        self._add(tour.cleared, _Step.CLOSED, self._outcome(incident, index, tour))
        self._add(tour.cleared, _Step.CLEAR, (tour, incident.call.place))
        return tour

    def events(self) -> Generator[Event, int | None, None]:
        """Yields events; after an `Incident` the index of the chosen candidate must be sent back."""
        while (event := self.next_event()) is not None:
            choice = yield event
            if isinstance(event, Incident):
                if choice is None:
                    raise RuntimeError("an incident needs the index of a candidate: use send()")
                self.dispatch(choice)

    def run(self, decide: Policy) -> Iterator[Event]:
        """Runs with a policy; yields each incident (after its decision) and each outcome."""
        while (event := self.next_event()) is not None:
            if isinstance(event, Incident):
                self.dispatch(decide(event))
            yield event

    def _add(self, minute: float, step: _Step, what: object) -> None:
        self._sequence += 1
        heapq.heappush(self._agenda, (minute, step, self._sequence, what))

    def _take_call(self) -> None:
        call = next(self._calls, None)
        if call is not None:
            self._add(call.minute, _Step.CALLED, call)

    def _handle(self, step: _Step, what: object) -> Event | None:
        match step, what:
            case _Step.CLOSED, OutcomeKnown():
                return what
            case _Step.CLEAR, (Tour() as tour, int(place)):
                return self._clear(tour, place)
            case _Step.NEAR_HOME, (int(unit), int(turn)):
                if turn != self._turns[unit]:
                    return None  # sent again on its way back
                self._base[unit] = self._home[unit]
                self._release(unit)
                return self._serve_waiting()
            case _Step.CALLED, Call() as call:
                # The next call may be ready for a decision before this one.
                self._take_call()
                self._add(self.now + call.dispatch_delay, _Step.DECIDE, call)
                return None
            case _Step.DECIDE, Call() as call:
                heapq.heappush(self._waiting, (call.priority, call.minute, call))
                return self._serve_waiting()
            case _:
                raise AssertionError("the agenda holds a step with the wrong matter")

    def _clear(self, tour: Tour, place: int) -> Event | None:
        """The unit is done with its call and sets out for home."""
        travel, unit, home = self.city.travel, tour.unit, int(self._home[tour.unit])
        if tour.hospital >= 0:
            self._base[unit] = len(self.city.stations) + tour.hospital
            self._release(unit)
            way = self._way(float(travel.between[self._base[unit], home]))
        else:
            way = self._way(float(travel.back[home, place]))
        self._add(self.now + way / 2, _Step.NEAR_HOME, (unit, int(self._turns[unit])))
        return self._serve_waiting()

    def _release(self, unit: int) -> None:
        if not self._free[unit]:
            self._free[unit] = True
            self._free_at[self._home[unit]] += 1

    def _serve_waiting(self) -> Incident | None:
        units = np.flatnonzero(self._free)
        if not self._waiting or not len(units):
            return None
        call = heapq.heappop(self._waiting)[2]
        self._pending = self._incident(call, units)
        return self._pending

    def _incident(self, call: Call, units: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Incident:
        city, travel = self.city, self.city.travel
        weekday, hour = weekday_and_hour(self.now, self._start_weekday)
        mode = city.mode(self.now, call.priority)
        minutes = travel.to_call[mode, self._base[units], call.place]
        nearest = np.argsort(minutes, kind="stable")[: self._candidates]
        offered = []
        for place in nearest.tolist():
            unit = int(units[place])
            home = int(self._home[unit])
            offered.append(
                Candidate(
                    city.units[unit],
                    round(float(travel.to_call_km[self._base[unit], call.place]), 3),
                    float(self._free_at[home] / self._fleet[home]),
                    round(self._turnout + expected_travel_min(float(minutes[place]), hour, weekday), 3),
                )
            )
        return Incident(
            incident_id=f"{self.name}-{call.number}",
            call=call,
            at=self._start + self.now * 60.0,
            minute=self.now,
            hour=round(hour, 3),
            weekday=weekday,
            region=city.region_name(call.place),
            target_min=city.priorities[call.priority].target_min,
            waited_min=self.now - call.minute,
            candidates=tuple(offered),
        )

    def _way(self, average_min: float) -> float:
        """Minutes of a way without lights and sirens that begins now."""
        weekday, hour = weekday_and_hour(self.now, self._start_weekday)
        return expected_travel_min(average_min, hour, weekday)

    def _outcome(self, incident: Incident, index: int, tour: Tour) -> OutcomeKnown:
        return OutcomeKnown(
            decision_id=incident.decision_id(index),
            incident_id=incident.incident_id,
            unit_id=incident.candidates[index].unit.unit_id,
            region=incident.region,
            priority=incident.call.priority,
            at=self._start + tour.cleared * 60.0,
            minute=tour.cleared,
            response_min=tour.arrived - incident.call.minute,
            on_time=tour.on_time,
            success=tour.success,
        )
