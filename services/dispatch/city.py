"""A city as the simulator knows it: roads, stations, hospitals, units with crews, priorities and rates of calls."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.dispatch.distributions import Duration
from services.dispatch.roads import Floats, Integers, RoadGraph, RoutingProgress, TravelTimes, travel_times
from services.dispatch.week import WeekShape
from services.runtime.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Site:
    """A station or a hospital: its road node, and its straight distance from that node in km."""

    name: str
    node: int
    off_road_km: float = 0.0


@dataclass(frozen=True, slots=True)
class CrewMember:
    """A member of a crew; `satisfaction` is the mean score of past assignments, 0 to 5."""

    paramedic: bool
    senior: bool
    satisfaction: float


@dataclass(frozen=True, slots=True)
class Unit:
    """An ambulance with its crew. `expertise` is the crew's fit to each of the family's `CALL_TYPES`, 0 to 1."""

    unit_id: str
    station: int
    crew: tuple[CrewMember, ...]
    expertise: tuple[float, ...]

    @property
    def paramedics(self) -> int:
        """How many of the crew are paramedics."""
        return sum(member.paramedic for member in self.crew)

    @property
    def senior_ratio(self) -> float:
        """Share of the crew that is senior, 0 to 1."""
        return sum(member.senior for member in self.crew) / len(self.crew)

    @property
    def satisfaction(self) -> float:
        """Mean satisfaction score of the crew, 0 to 5."""
        return sum(member.satisfaction for member in self.crew) / len(self.crew)


@dataclass(frozen=True, slots=True)
class Priority:
    """A class of calls, most urgent first: `target_min` is the response time aimed at, from the call on.

    `severities` are the severities (1 minor to 5 life-threatening) that calls of this priority have.
    """

    name: str
    target_min: float
    severities: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DemandPeriod:
    """Mean calls a day for each priority, from `start_min` (minutes since the simulation's start) on."""

    start_min: float
    calls_per_day: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TravelPeriod:
    """Travel mode of each priority, from `start_min` (minutes since the simulation's start) on."""

    start_min: float
    modes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTimes:
    """How long the parts of a call take, and the probability that the patient is taken to hospital."""

    dispatch_delay: Duration
    mobilisation: Duration
    on_scene: Duration
    handover: Duration
    transport: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class City:
    """Everything about a city that a simulation needs. Bases are the stations, then the hospitals.

    `regular_mode` is the travel mode without lights and sirens. `region` is (call nodes,): the station whose district
    a call node lies in. `place_weight` is (2, call nodes): where calls come from at night and, added by day, in the
    centre; each row sums to 1.
    """

    name: str
    roads: RoadGraph
    travel: TravelTimes
    stations: tuple[Site, ...]
    hospitals: tuple[Site, ...]
    units: tuple[Unit, ...]
    priorities: tuple[Priority, ...]
    demand: tuple[DemandPeriod, ...]
    travel_modes: tuple[TravelPeriod, ...]
    regular_mode: int
    times: CallTimes
    week: WeekShape
    region: Integers
    place_weight: Floats

    def __repr__(self) -> str:
        return f"City({self.name!r}, {len(self.units)} units, {len(self.travel.call_nodes)} places)"

    def rates(self, minute: float) -> tuple[float, ...]:
        """Mean calls a day of each priority at a minute of the simulation."""
        index = bisect.bisect_right(self.demand, minute, key=lambda period: period.start_min) - 1
        return self.demand[max(index, 0)].calls_per_day

    def mode(self, minute: float, priority: int) -> int:
        """Travel mode of a response to a priority at a minute of the simulation."""
        index = bisect.bisect_right(self.travel_modes, minute, key=lambda period: period.start_min) - 1
        return self.travel_modes[max(index, 0)].modes[priority]

    def region_name(self, call_node: int) -> str:
        """Name of the district in which a call node (an index into `travel.call_nodes`) lies."""
        return self.stations[int(self.region[call_node])].name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """A city before its travel times are known; `assemble` checks and completes it."""

    name: str
    roads: RoadGraph
    stations: tuple[Site, ...]
    hospitals: tuple[Site, ...]
    units: tuple[Unit, ...]
    priorities: tuple[Priority, ...]
    demand: tuple[DemandPeriod, ...]
    travel_modes: tuple[TravelPeriod, ...]
    off_road_km_per_min: Sequence[float]
    times: CallTimes
    week: WeekShape


def assemble(plan: Plan, progress: RoutingProgress) -> City:
    """Computes a plan's travel times, districts and the places that calls come from.

    Raises:
        InvalidArgument: the parts do not fit together; names what is wrong.
    """
    _check(plan)
    regular = plan.travel_modes[0].modes[-1]
    travel = travel_times(
        plan.roads,
        [(site.node, site.off_road_km) for site in (*plan.stations, *plan.hospitals)],
        regular_mode=regular,
        off_road_km_per_min=plan.off_road_km_per_min,
        progress=progress,
    )
    return City(
        name=plan.name,
        roads=plan.roads,
        travel=travel,
        stations=plan.stations,
        hospitals=plan.hospitals,
        units=plan.units,
        priorities=plan.priorities,
        demand=plan.demand,
        travel_modes=plan.travel_modes,
        regular_mode=regular,
        times=plan.times,
        week=plan.week,
        region=travel.to_call[regular, : len(plan.stations)].argmin(axis=0).astype(np.int32),
        place_weight=_place_weights(plan.roads, travel),
    )


def severities(priorities: int) -> tuple[tuple[int, ...], ...]:
    """Shares the severities 5 to 1 out among priorities, most urgent first: for three (5, 4), (3, 2), (1,)."""
    size, rest = divmod(5, priorities)
    bands, severity = [], 5
    for index in range(priorities):
        width = size + (index < rest)
        bands.append(tuple(range(severity, severity - width, -1)))
        severity -= width
    return tuple(bands)


def _place_weights(roads: RoadGraph, travel: TravelTimes) -> Floats:
    """Every node alike (density follows the road net), and a bell around the middle with a sixth of the extent."""
    xy = roads.xy_km[travel.call_nodes]
    middle = np.median(xy, axis=0)
    width = max(float(np.ptp(xy, axis=0).max()) / 6, 0.1)
    bell = np.exp(-((xy - middle) ** 2).sum(axis=1) / (2 * width**2))
    weights: Floats = np.stack([np.full(len(xy), 1 / len(xy)), bell / bell.sum()])
    return weights


def _check(plan: Plan) -> None:
    for kind, items in (("stations", plan.stations), ("hospitals", plan.hospitals), ("units", plan.units)):
        if not items:
            raise InvalidArgument("city", f"a city needs at least one of its {kind}")
    if not 1 <= len(plan.priorities) <= 5:
        raise InvalidArgument("city", f"a city has 1 to 5 priorities, not {len(plan.priorities)}")
    if not any(sum(period.calls_per_day) > 0 for period in plan.demand):
        raise InvalidArgument("city", "a city needs a rate of calls above 0")
    for unit in plan.units:
        if not 0 <= unit.station < len(plan.stations):
            raise InvalidArgument("city", f"unit {unit.unit_id!r} must belong to one of {len(plan.stations)} stations")
