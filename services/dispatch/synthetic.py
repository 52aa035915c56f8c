"""A believable city made from a seed: a jittered street grid with arterials, stations, hospitals and units."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

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
from services.dispatch.roads import RoadGraph, RoutingProgress
from services.dispatch.week import RIO

_SIDE: Final = 18
_SPACING_KM: Final = 0.8
_ARTERIAL_EVERY: Final = 4
_STREET_KMH: Final = 28.0
_ARTERIAL_KMH: Final = 48.0
_SIRENS: Final = 1.35
_CLOSED: Final = 0.08
_CALLS_PER_UNIT_DAY: Final = 8.5
_SHARES: Final = (0.35, 0.40, 0.25)
_TARGETS_MIN: Final = (8.0, 12.0, 20.0)
_NAMES: Final = ("high", "medium", "low")


def synthetic_city(seed: int, *, progress: RoutingProgress | None = None) -> City:
    """Builds a city of 324 road nodes, 8-12 stations, 3-4 hospitals and 20-30 units.

    The grid spans about 14 km; a block is 0.8 km; every fourth street is an arterial. Response targets are 8, 12 and
    20 minutes. The same seed gives the same city.
    """
    rng = np.random.default_rng(seed)
    roads = _roads(rng)
    stations = _sites("station", _spread(roads.xy_km, int(rng.integers(8, 13)), rng))
    hospitals = _sites("hospital", _spread(roads.xy_km, int(rng.integers(3, 5)), rng))
    units = _units(len(stations), rng)
    daily = _CALLS_PER_UNIT_DAY * len(units)
    plan = Plan(
        name=f"synthetic-{seed}",
        roads=roads,
        stations=stations,
        hospitals=hospitals,
        units=units,
        priorities=tuple(
            Priority(name, target, band)
            for name, target, band in zip(_NAMES, _TARGETS_MIN, severities(len(_NAMES)), strict=True)
        ),
        demand=(DemandPeriod(0.0, tuple(daily * share for share in _SHARES)),),
        travel_modes=(TravelPeriod(0.0, (0, 0, 1)),),
        off_road_km_per_min=(0.5, 0.4),
        times=CallTimes(
            dispatch_delay=Duration(Shape.NORMAL, 0.8, 0.2, 0.2, 2.0),
            mobilisation=Duration(Shape.NORMAL, 1.0, 0.2, 0.4, 2.5),
            on_scene=Duration(Shape.GAMMA, 3.0, 5.0, 2.0, 90.0),
            handover=Duration(Shape.GAMMA, 3.0, 6.0, 3.0, 120.0),
            transport=0.7,
        ),
        week=RIO,
    )
    return assemble(plan, progress or _silent)


def _silent(_done: int, _total: int) -> None:
    pass


def _roads(rng: np.random.Generator) -> RoadGraph:
    columns, rows = np.meshgrid(np.arange(_SIDE), np.arange(_SIDE))
    xy = np.stack([columns.ravel(), rows.ravel()], axis=1) * _SPACING_KM
    xy = xy + rng.normal(0.0, 0.08, xy.shape)
    ends: list[tuple[int, int, float]] = []
    for row in range(_SIDE):
        for column in range(_SIDE):
            node = row * _SIDE + column
            for right, up in ((1, 0), (0, 1)):
                if column + right >= _SIDE or row + up >= _SIDE:
                    continue
                arterial = (row if right else column) % _ARTERIAL_EVERY == 0
                # Closed streets make detours; arterials stay open, so that the graph stays in one piece.
                if not arterial and rng.random() < _CLOSED and _keeps_access(row, column):
                    continue
                ends.append((node, node + right + up * _SIDE, _ARTERIAL_KMH if arterial else _STREET_KMH))
    start = np.array([a for a, _, _ in ends])
    stop = np.array([b for _, b, _ in ends])
    kmh = np.array([speed for _, _, speed in ends]) * rng.uniform(0.85, 1.15, len(ends))
    km = np.sqrt(((xy[start] - xy[stop]) ** 2).sum(axis=1)) * rng.uniform(1.0, 1.15, len(ends))
    regular = np.concatenate([km / kmh, km / kmh]) * 60.0
    return RoadGraph(
        xy_km=xy,
        access=np.ones(len(xy), dtype=bool),
        origins=np.concatenate([start, stop]).astype(np.int32),
        targets=np.concatenate([stop, start]).astype(np.int32),
        distance_km=np.concatenate([km, km]),
        minutes=np.stack([regular / _SIRENS, regular]),
    )


def _keeps_access(row: int, column: int) -> bool:
    """Only streets that begin on odd crossings may be closed: every crossing keeps another way out."""
    return row % 2 == 1 and column % 2 == 1


def _spread(xy: npt.NDArray[np.float64], count: int, rng: np.random.Generator) -> list[int]:
    """Picks nodes far from one another: from a random first one, always the farthest of a random handful."""
    inner = np.flatnonzero((np.abs(xy - xy.mean(axis=0)) < np.ptp(xy, axis=0) * 0.42).all(axis=1))
    chosen = [int(rng.choice(inner))]
    while len(chosen) < count:
        some = rng.choice(inner, 24, replace=False)
        gaps = ((xy[some][:, None, :] - xy[chosen][None, :, :]) ** 2).sum(axis=2).min(axis=1)
        chosen.append(int(some[gaps.argmax()]))
    return chosen


def _sites(kind: str, nodes: list[int]) -> tuple[Site, ...]:
    return tuple(Site(f"{kind}-{number}", node) for number, node in enumerate(nodes, start=1))


def _units(stations: int, rng: np.random.Generator) -> tuple[Unit, ...]:
    count = int(rng.integers(max(20, 2 * stations), 31))
    homes = [*range(stations), *range(stations), *rng.integers(0, stations, count - 2 * stations).tolist()]
    return tuple(
        draw_unit(f"unit-{number}", home, 1 if rng.random() < 0.7 else 2, rng)
        for number, home in enumerate(homes, start=1)
    )
