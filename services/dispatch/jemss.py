"""Reads a city of JEMSS, the Julia emergency medical services simulator, from its folder.

Source of the format: src/file/read_sim_files.jl of github.com/uoa-ems-research/JEMSS.jl. Times in the files are days,
speeds kilometres a day, coordinates degrees with kilometres a degree in the map file. The raster of demand is not
read: calls come from the road nodes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from services.dispatch.city import (
    CallTimes,
    City,
    DemandPeriod,
    Plan,
    Priority,
    Site,
    TravelPeriod,
    Unit,
    assemble,
    severities,
)
from services.dispatch.crews import draw_unit
from services.dispatch.distributions import Duration, Shape
from services.dispatch.jemss_calls import (
    DEFAULT_DURATIONS,
    DEFAULT_TRANSPORT,
    PRIORITY_NAMES,
    CallConfiguration,
    default_demand,
    priority_index,
    read_configuration,
    read_demand,
)
from services.dispatch.jemss_files import find_files
from services.dispatch.jemss_mobilisation import read_mobilisation
from services.dispatch.jemss_roads import MINUTES_PER_DAY, MapFrame, only, read_frame, read_roads
from services.dispatch.jemss_tables import BytesRead, Source, tables
from services.dispatch.roads import RoadGraph
from services.dispatch.week import FLAT
from services.runtime.errors import InvalidArgument

Progress = Callable[[str, int, int], None]
"""Called with ("reading", bytes read, bytes in all), then with ("routing", rows done, rows in all)."""

_TARGETS_MIN: Final = (8.0, 8.0, 20.0)
_OFF_ROAD_KMH: Final = 30.0
_MAX_UNITS: Final = 2_000


def read_city(folder: Path, *, crew_seed: int = 0, progress: Progress | None = None) -> City:
    """Reads a city folder and computes its travel times.

    Args:
        folder: the folder that holds stations, hospitals, ambulances, map, nodes and arcs.
        crew_seed: seed of the crews, which JEMSS does not describe.
        progress: told how far reading and routing are.

    Raises:
        InvalidArgument: a file is missing or wrong; names the file and, where there is one, the line.
    """
    files, configuration = find_files(folder)
    total = sum(source.size() for source in (*files.values(), *([configuration] if configuration else [])))
    done = 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("reading", min(done, total), total)

    def routed(rows: int, of: int) -> None:
        if progress is not None:
            progress("routing", rows, of)

    name = folder.resolve().name
    frame = read_frame(files["map"], read)
    priorities = _priorities(files.get("priorities"), read)
    config = read_configuration(configuration, len(priorities), read) if configuration else None
    mobilisation = read_mobilisation(files["mobilisation"], read) if "mobilisation" in files else None
    roads = read_roads(files["nodes"], files["arcs"], frame, read)
    stations = _sites(files["stations"], "stations", frame, roads, read)
    units = _units(
        files["ambulances"], len(stations), np.random.default_rng((zlib.crc32(name.encode()), crew_seed)), read
    )
    speeds, modes = _travel(files.get("travel"), roads.modes, len(priorities), read)
    plan = Plan(
        name=name,
        roads=roads,
        stations=stations,
        hospitals=_sites(files["hospitals"], "hospitals", frame, roads, read),
        units=units,
        priorities=priorities,
        demand=_demand(files.get("demand"), config, len(units), len(priorities), read),
        travel_modes=modes,
        off_road_km_per_min=speeds,
        times=_times(config, mobilisation),
        # JEMSS draws calls at a rate that does not depend on the hour.
        week=FLAT,
    )
    return assemble(plan, routed)


def _priorities(source: Source | None, read: BytesRead) -> tuple[Priority, ...]:
    if source is None:
        bands = severities(len(PRIORITY_NAMES))
        return tuple(Priority(*each) for each in zip(PRIORITY_NAMES, _TARGETS_MIN, bands, strict=True))
    found = only(tables(source, read), "priorities", source)
    if len(found) > len(PRIORITY_NAMES):
        raise source.wrong(found[-1].line, f"there are at most {len(PRIORITY_NAMES)} priorities")
    priorities = []
    for number, (row, band) in enumerate(zip(found, severities(len(found)), strict=True), start=1):
        if row.integer("priority") != number:
            raise source.wrong(row.line, f"priority must be {number}")
        column = "targetResponseDuration" if "targetResponseDuration" in row.cells else "targetResponseTime"
        target = round(row.number(column, low=1e-9, high=100.0) * MINUTES_PER_DAY, 3)
        priorities.append(Priority(row.text("name"), target, band))
    return tuple(priorities)


def _sites(source: Source, kind: str, frame: MapFrame, roads: RoadGraph, read: BytesRead) -> tuple[Site, ...]:
    sites = []
    for number, row in enumerate(only(tables(source, read), kind, source), start=1):
        row.expect_index(number)
        node, gap = roads.nearest(*frame.km(row.number("x"), row.number("y")))
        given = next((row.cells[column] for column in row.cells if column.lower().startswith("name")), "")
        sites.append(Site(given or f"{kind[:-1]}-{number}", node, gap))
    return tuple(sites)


def _units(source: Source, stations: int, rng: np.random.Generator, read: BytesRead) -> tuple[Unit, ...]:
    units = []
    for number, row in enumerate(only(tables(source, read), "ambulances", source), start=1):
        row.expect_index(number)
        if number > _MAX_UNITS:
            raise source.wrong(row.line, f"a city has at most {_MAX_UNITS} units")
        station = row.integer("stationIndex", low=1, high=stations) - 1
        units.append(draw_unit(f"unit-{number}", station, row.integer("class") if "class" in row.cells else 1, rng))
    return tuple(units)


def _travel(
    source: Source | None, modes: int, priorities: int, read: BytesRead
) -> tuple[tuple[float, ...], tuple[TravelPeriod, ...]]:
    """Off-road speed of each mode in km/min, and which mode each priority travels by, from when on."""
    if source is None:
        usual = tuple(0 if priority < priorities - 1 else modes - 1 for priority in range(priorities))
        return (_OFF_ROAD_KMH / 60.0,) * modes, (TravelPeriod(0.0, usual),)
    found = tables(source, read)
    speeds = []
    for number, row in enumerate(only(found, "travelModes", source), start=1):
        if row.integer("travelModeIndex") != number:
            raise source.wrong(row.line, f"travelModeIndex must be {number}")
        speeds.append(row.number("offRoadSpeed", low=1e-6, high=1e6) / MINUTES_PER_DAY)
    if len(speeds) != modes:
        raise InvalidArgument("city", f"{source.label}: there are {len(speeds)} travel modes, the arcs have {modes}")
    sets: dict[int, dict[int, int]] = {}
    for row in only(found, "travelSets", source):
        chosen = sets.setdefault(row.integer("travelSetIndex", low=1), {})
        chosen[priority_index(row, "priority")] = row.integer("travelModeIndex", low=1, high=modes) - 1
    periods: list[TravelPeriod] = []
    for row in only(found, "travelSetsTiming", source):
        start = row.number("startTime", low=0.0) * MINUTES_PER_DAY
        if periods and start <= periods[-1].start_min:
            raise source.wrong(row.line, "startTime must rise from row to row")
        chosen = sets.get(row.integer("travelSetIndex"), {})
        missing = [PRIORITY_NAMES[priority] for priority in range(priorities) if priority not in chosen]
        if missing:
            raise source.wrong(row.line, f"the travel set names no mode for {missing[0]}")
        periods.append(TravelPeriod(start, tuple(chosen[priority] for priority in range(priorities))))
    return tuple(speeds), tuple(periods)


def _demand(
    source: Source | None, config: CallConfiguration | None, units: int, priorities: int, read: BytesRead
) -> tuple[DemandPeriod, ...]:
    periods = read_demand(source, priorities, read) if source else ()
    if len(periods) > 1 or (periods and config is None):
        return periods
    if config is not None:
        return (DemandPeriod(0.0, config.calls_per_day),)
    return default_demand(units, priorities)


def _times(config: CallConfiguration | None, mobilisation: Duration | None) -> CallTimes:
    return CallTimes(
        dispatch_delay=config.dispatch_delay if config else DEFAULT_DURATIONS["dispatchDelay"],
        mobilisation=mobilisation or Duration(Shape.CONSTANT, 0.0),
        on_scene=config.on_scene if config else DEFAULT_DURATIONS["onSceneDuration"],
        handover=config.handover if config else DEFAULT_DURATIONS["handoverDuration"],
        transport=config.transport if config else DEFAULT_TRANSPORT,
    )
