"""A road graph, and the shortest travel times that a simulation needs of it.

Only rows that are used are ever computed: from every base (station or hospital) to the call nodes, and from the call
nodes back to the bases. That is O(bases x call nodes) numbers, never nodes squared, so a city of 100 000 nodes fits
in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from services.runtime.errors import InvalidArgument

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]
Booleans = npt.NDArray[np.bool_]

MAX_NODES: Final = 1_000_000
MAX_ARCS: Final = 4_000_000
MAX_CALL_NODES: Final = 100_000
MAX_BASES: Final = 500
_MAX_CELLS: Final = 50_000_000

RoutingProgress = Callable[[int, int], None]
"""Called with (rows of shortest paths done, rows in all)."""


@dataclass(frozen=True, slots=True, eq=False)
class RoadGraph:
    """A directed road graph with one travel time per arc and travel mode.

    `xy_km` is (nodes, 2): kilometres east and north of the map's corner. `access` marks nodes at which a vehicle can
    leave the road. `origins`, `targets` and `distance_km` are (arcs,); `minutes` is (modes, arcs).
    """

    xy_km: Floats
    access: Booleans
    origins: Integers
    targets: Integers
    distance_km: Floats
    minutes: Floats

    @property
    def modes(self) -> int:
        """Number of travel modes."""
        return int(self.minutes.shape[0])

    def nearest(self, x_km: float, y_km: float) -> tuple[int, float]:
        """Gives the nearest node with access (any node, when none has) and the straight distance to it, in km."""
        squared = ((self.xy_km - (x_km, y_km)) ** 2).sum(axis=1)
        if self.access.any():
            squared = np.where(self.access, squared, np.inf)
        node = int(squared.argmin())
        return node, float(np.sqrt(squared[node]))

    def matrix(self, weights: Floats, *, reverse: bool = False) -> csr_array:
        """Gives the sparse matrix of arc weights; of parallel arcs the lightest counts."""
        rows, columns = (self.targets, self.origins) if reverse else (self.origins, self.targets)
        order = np.lexsort((weights, columns, rows))
        rows, columns, weights = rows[order], columns[order], weights[order]
        first = np.ones(len(rows), dtype=bool)
        first[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
        size = len(self.xy_km)
        return csr_array((weights[first], (rows[first], columns[first])), shape=(size, size))


@dataclass(frozen=True, slots=True, eq=False)
class TravelTimes:
    """Travel, in an average hour, between bases and call nodes. Bases are all stations, then all hospitals.

    `call_nodes` is (calls,): the road nodes where an incident can be. `to_call` is (modes, bases, calls) and `back` is
    (bases, calls), both in minutes, `back` by the regular mode. `to_call_km` is (bases, calls): shortest road
    kilometres. `between` is (bases, bases): minutes by the regular mode.
    """

    call_nodes: Integers
    to_call: Singles
    to_call_km: Singles
    back: Singles
    between: Singles


def travel_times(
    roads: RoadGraph,
    bases: Sequence[tuple[int, float]],
    *,
    regular_mode: int,
    off_road_km_per_min: Sequence[float],
    progress: RoutingProgress,
) -> TravelTimes:
    """Computes the shortest travel times between the bases and all nodes where an incident can be.

    Args:
        roads: the graph.
        bases: for each station, then each hospital: its node, and its distance from the road in km.
        regular_mode: travel mode without lights and sirens, used for transport and return.
        off_road_km_per_min: speed between a base and its node, per mode.
        progress: told about each finished row.

    Raises:
        InvalidArgument: the graph is too large, or no node can be reached from every base and back.
    """
    if len(bases) > MAX_BASES:
        raise InvalidArgument("city", f"a city has at most {MAX_BASES} stations and hospitals, not {len(bases)}")
    total = len(bases) * (roads.modes + 2)
    done = 0

    def rows(weights: Floats, *, reverse: bool, keep: Integers | None, added: Floats) -> Singles:
        nonlocal done
        graph = roads.matrix(weights, reverse=reverse)
        size = len(roads.xy_km) if keep is None else len(keep)
        table = np.empty((len(bases), size), dtype=np.float32)
        for index, (node, _) in enumerate(bases):
            row = dijkstra(graph, directed=True, indices=node)
            table[index] = (row if keep is None else row[keep]) + added[index]
            done += 1
            progress(done, total)
        return table

    off_road = np.array([km for _, km in bases])
    regular_off_road = off_road / off_road_km_per_min[regular_mode]
    everywhere = rows(roads.minutes[regular_mode], reverse=False, keep=None, added=regular_off_road)
    backwards = rows(roads.minutes[regular_mode], reverse=True, keep=None, added=regular_off_road)
    nodes = _call_nodes(roads, everywhere, backwards, len(bases))
    to_call = np.empty((roads.modes, len(bases), len(nodes)), dtype=np.float32)
    for mode in range(roads.modes):
        if mode == regular_mode:
            to_call[mode] = everywhere[:, nodes]
        else:
            added = off_road / off_road_km_per_min[mode]
            to_call[mode] = rows(roads.minutes[mode], reverse=False, keep=nodes, added=added)
    between = everywhere[:, [node for node, _ in bases]] + regular_off_road[None, :].astype(np.float32)
    distances = rows(roads.distance_km, reverse=False, keep=nodes, added=off_road)
    return TravelTimes(nodes, to_call, distances, backwards[:, nodes], between)


def _call_nodes(roads: RoadGraph, there: Singles, back: Singles, bases: int) -> Integers:
    reachable = np.isfinite(there).all(axis=0) & np.isfinite(back).all(axis=0)
    if roads.access.any():
        reachable &= roads.access
    nodes = np.flatnonzero(reachable).astype(np.int32)
    if not len(nodes):
        raise InvalidArgument("city", "no road node can be reached from every station and hospital and back")
    # Tables hold (modes + 2) numbers per base and node; a larger city keeps an even sample of its nodes.
    most = min(MAX_CALL_NODES, _MAX_CELLS // (bases * (roads.modes + 2)))
    if len(nodes) <= most:
        return nodes
    kept: Integers = nodes[np.linspace(0, len(nodes) - 1, most).astype(np.int64)]
    return kept
