"""Reads the road graph of a JEMSS city: nodes.csv and arcs.csv, row by row into flat arrays."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.dispatch.jemss_tables import BytesRead, Row, Source, rows, tables
from services.dispatch.roads import MAX_ARCS, MAX_NODES, Floats, RoadGraph
from services.runtime.errors import InvalidArgument

MINUTES_PER_DAY: Final = 1440.0
_MAX_MODES: Final = 20


@dataclass(frozen=True, slots=True)
class MapFrame:
    """The map's corner in its own coordinates (degrees, as a rule) and the kilometres in one of them."""

    x_min: float
    y_min: float
    x_scale: float
    y_scale: float

    def km(self, x: float, y: float) -> tuple[float, float]:
        """Kilometres east and north of the corner."""
        return (x - self.x_min) * self.x_scale, (y - self.y_min) * self.y_scale


def read_frame(source: Source, read: BytesRead) -> MapFrame:
    """Reads the map's frame.

    Raises:
        InvalidArgument: names the file and line.
    """
    row = only(tables(source, read), "map", source)[0]
    x_min, x_max, y_min, y_max = (row.number(name) for name in ("xMin", "xMax", "yMin", "yMax"))
    if not (x_min < x_max and y_min < y_max):
        raise source.wrong(row.line, "xMin must be under xMax and yMin under yMax")
    return MapFrame(x_min, y_min, row.number("xScale", low=1e-9), row.number("yScale", low=1e-9))


def only(found: dict[str, list[Row]], name: str, source: Source) -> list[Row]:
    """Gives a table's rows, at least one.

    Raises:
        InvalidArgument: the file has no such table, or an empty one.
    """
    if not found.get(name):
        raise InvalidArgument("city", f"{source.label}: there is no table {name!r} with a row")
    return found[name]


def read_roads(nodes: Source, arcs: Source, frame: MapFrame, read: BytesRead) -> RoadGraph:
    """Reads both files; times become minutes and coordinates kilometres.

    Raises:
        InvalidArgument: names the file and line.
    """
    xy, access = _nodes(nodes, frame, read)
    ends, distance, minutes, undirected = _arcs(arcs, len(xy), read)
    if undirected:
        ends = np.concatenate([ends, ends[:, ::-1]])
        distance, minutes = np.concatenate([distance, distance]), np.concatenate([minutes, minutes])
    straight = np.sqrt(((xy[ends[:, 0]] - xy[ends[:, 1]]) ** 2).sum(axis=1))
    return RoadGraph(
        xy_km=xy,
        access=access,
        origins=ends[:, 0].astype(np.int32),
        targets=ends[:, 1].astype(np.int32),
        # An arc without a length is as long as the straight line; a sparse matrix takes no explicit zero.
        distance_km=np.maximum(np.where(np.isnan(distance), straight, distance), 1e-6),
        minutes=np.ascontiguousarray(minutes.T),
    )


def _nodes(
    source: Source, frame: MapFrame, read: BytesRead
) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    values, access = array("d"), bytearray()
    for row in rows(source, read):
        if row.table != "nodes":
            continue
        row.expect_index(len(access) + 1)
        if len(access) >= MAX_NODES:
            raise source.wrong(row.line, f"a city has at most {MAX_NODES} nodes")
        values.extend(frame.km(row.number("x"), row.number("y")))
        access.append(_truth(row, "offRoadAccess"))
    if len(access) < 2:
        raise InvalidArgument("city", f"{source.label}: there is no table 'nodes' with two rows or more")
    return np.array(values).reshape(-1, 2), np.frombuffer(bytes(access), dtype=bool)


def _truth(row: Row, column: str) -> bool:
    text = row.cells.get(column)
    if text is None or text.lower() == "true":
        return True
    return text.lower() != "false" and row.integer(column, high=1) == 1


def _arcs(
    source: Source, nodes: int, read: BytesRead
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int64]], Floats, Floats, bool]:
    modes, undirected, arcs = 0, False, 0
    ends, distance, days = array("q"), array("d"), array("d")
    columns: tuple[str, ...] = ()
    for row in rows(source, read):
        if row.table == "miscData":
            modes = row.integer("numModes", low=1, high=_MAX_MODES)
            form = row.text("arcForm")
            if form not in {"directed", "undirected"}:
                raise source.wrong(row.line, f"arcForm must be directed or undirected, not {form[:40]!r}")
            undirected, columns = form == "undirected", tuple(f"mode_{mode}" for mode in range(1, modes + 1))
        elif row.table == "arcs":
            if not modes:
                raise source.wrong(row.line, "table 'miscData' with arcForm and numModes must stand before the arcs")
            arcs += 1
            row.expect_index(arcs)
            if arcs > MAX_ARCS:
                raise source.wrong(row.line, f"a city has at most {MAX_ARCS} arcs")
            ends.extend(row.integer(name, low=1, high=nodes) - 1 for name in ("fromNode", "toNode"))
            distance.append(row.number("distance", low=0.0) if "distance" in row.cells else np.nan)
            days.extend([row.number(name, low=1e-12, high=100.0) for name in columns])
    if not arcs:
        raise InvalidArgument("city", f"{source.label}: there is no table 'arcs' with a row")
    minutes = np.array(days).reshape(-1, modes) * MINUTES_PER_DAY
    return np.array(ends, dtype=np.int64).reshape(-1, 2), np.array(distance), minutes, undirected
