"""Road graphs, travel times, and the city that is made from a seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from services.dispatch.city import City, severities
from services.dispatch.roads import RoadGraph, travel_times
from services.dispatch.synthetic import synthetic_city
from services.runtime.errors import InvalidArgument


def graph(arcs: list[tuple[int, int, float]], nodes: int, access: list[int] | None = None) -> RoadGraph:
    """A graph on a line, a kilometre a node; an arc is (from, to, minutes), siren halves it."""
    marks = np.zeros(nodes, dtype=bool)
    marks[list(range(nodes)) if access is None else access] = True
    minutes = np.array([time for _, _, time in arcs])
    return RoadGraph(
        xy_km=np.array([(float(node), 0.0) for node in range(nodes)]),
        access=marks,
        origins=np.array([a for a, _, _ in arcs], dtype=np.int32),
        targets=np.array([b for _, b, _ in arcs], dtype=np.int32),
        distance_km=minutes * 0.5,
        minutes=np.stack([minutes / 2, minutes]),
    )


def shortest(roads: RoadGraph, start: int, mode: int) -> list[float]:
    """Shortest times by Bellman and Ford, as an oracle."""
    best = [float("inf")] * len(roads.xy_km)
    best[start] = 0.0
    for _ in best:
        for a, b, time in zip(roads.origins, roads.targets, roads.minutes[mode], strict=True):
            best[b] = min(best[b], best[a] + float(time))
    return best


def travel_of(roads: RoadGraph, bases: list[tuple[int, float]]) -> object:
    """Travel times with off-road speeds of 1 and 0.5 km/min."""
    return travel_times(roads, bases, regular_mode=1, off_road_km_per_min=(1.0, 0.5), progress=lambda _a, _b: None)


def test_travel_times_are_the_shortest_ones() -> None:
    """Every row equals what Bellman and Ford's algorithm gives on the same random graph, in both directions."""
    rng = np.random.default_rng(4)
    ring = [(node, (node + 1) % 12, float(rng.uniform(1, 5))) for node in range(12)]
    chords = [(int(rng.integers(12)), int(rng.integers(12)), float(rng.uniform(1, 9))) for _ in range(25)]
    roads = graph([*ring, *chords], 12)
    bases = [(0, 0.0), (5, 0.25)]
    travel = travel_times(roads, bases, regular_mode=1, off_road_km_per_min=(1.0, 0.5), progress=lambda _a, _b: None)
    assert travel.call_nodes.tolist() == list(range(12))
    for index, (node, gap) in enumerate(bases):
        for mode, speed in ((0, 1.0), (1, 0.5)):
            wanted = [time + gap / speed for time in shortest(roads, node, mode)]
            assert travel.to_call[mode, index] == pytest.approx(wanted, rel=1e-5)
        back = [shortest(roads, other, 1)[node] + gap / 0.5 for other in range(12)]
        assert travel.back[index] == pytest.approx(back, rel=1e-5)
    assert travel.between[0, 1] == pytest.approx(shortest(roads, 0, 1)[5] + 0.5, rel=1e-5)


def test_of_parallel_arcs_the_lightest_counts() -> None:
    """Two arcs between the same nodes are not added up."""
    roads = graph([(0, 1, 7.0), (0, 1, 3.0), (1, 0, 2.0)], 2)
    matrix = roads.matrix(roads.minutes[1])
    assert matrix[0, 1] == 3.0
    assert matrix[1, 0] == 2.0


def test_incidents_happen_only_where_a_unit_can_come_and_go() -> None:
    """A dead end that cannot be left, an island, and a node without access to the roadside are left out."""
    arcs = [(0, 1, 1.0), (1, 0, 1.0), (1, 2, 1.0), (0, 4, 1.0), (4, 0, 1.0)]
    travel = travel_times(
        graph(arcs, 5, access=[0, 1, 2, 3]),
        [(0, 0.0)],
        regular_mode=1,
        off_road_km_per_min=(1.0, 1.0),
        progress=lambda _a, _b: None,
    )
    assert travel.call_nodes.tolist() == [0, 1]


def test_a_city_in_two_pieces_is_refused() -> None:
    """A station that cannot reach the hospital leaves no place for an incident."""
    with pytest.raises(InvalidArgument, match="no road node can be reached"):
        travel_of(graph([(0, 1, 1.0), (1, 0, 1.0), (2, 3, 1.0), (3, 2, 1.0)], 4), [(0, 0.0), (2, 0.0)])


def test_routing_reports_every_row_once() -> None:
    """Progress counts up to its total."""
    seen: list[tuple[int, int]] = []
    synthetic_city(3, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))


@pytest.mark.parametrize("seed", range(6))
def test_a_synthetic_city_is_believable(seed: int) -> None:
    """Its size, its fleet and its distances are those of a city, whatever the seed."""
    city = synthetic_city(seed)
    stations = len(city.stations)
    assert 8 <= stations <= 12
    assert 3 <= len(city.hospitals) <= 4
    assert 20 <= len(city.units) <= 30
    assert len(city.travel.call_nodes) >= 310
    assert {unit.station for unit in city.units} == set(range(stations))
    assert all(0.0 <= fit <= 1.0 for unit in city.units for fit in unit.expertise)
    assert all(0.0 <= unit.satisfaction <= 5.0 and unit.crew for unit in city.units)
    nearest = city.travel.to_call[0, :stations].min(axis=0)
    assert 1.0 < float(np.median(nearest)) < 8.0
    assert float(city.travel.to_call.max()) < 60.0
    assert city.place_weight.sum(axis=1) == pytest.approx([1.0, 1.0])


def test_sirens_are_never_slower() -> None:
    """With lights and sirens every way is faster."""
    travel = synthetic_city(1).travel
    assert (travel.to_call[0] <= travel.to_call[1]).all()


def test_a_district_belongs_to_its_nearest_station() -> None:
    """The region of a place is the station from which it is reached first."""
    city = synthetic_city(1)
    regular = city.travel.to_call[city.regular_mode, : len(city.stations)]
    assert (regular[city.region, np.arange(len(city.region))] == regular.min(axis=0)).all()


def parts(city: City) -> tuple[object, ...]:
    """What makes a city, comparable."""
    return (city.units, city.stations, city.hospitals, city.demand, city.travel.to_call.tobytes())


def test_a_seed_gives_one_city_and_another_seed_another() -> None:
    """The same seed gives the same city, bit for bit."""
    cities = [parts(synthetic_city(seed)) for seed in (1, 1, 2)]
    assert cities[0] == cities[1]
    assert cities[0] != cities[2]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_severities_are_shared_out_from_the_gravest_on(count: int) -> None:
    """Each severity belongs to one priority, and a more urgent priority has the graver ones."""
    bands = severities(count)
    assert len(bands) == count
    assert list(itertools.chain(*bands)) == [5, 4, 3, 2, 1]
