"""Reads the San Francisco Fire Department's calls for service as past dispatch decisions.

One row of the file (CSV, or CSV compressed with gzip) is one unit that answered one call. The file must be ordered by
`CallDate`, as published in `docs/data-sf-fire-calls.md`, which also justifies the mapping:

| feature | from |
|---|---|
| severity | `OriginalPriority`: E 5; 3 and D 4; C 3; 2 and B 2; 1, A, I and O 1; anything else 3 (not classified yet) |
| distance_km | 1.3 × the straight line to `Location` from the mean place of the unit's earlier days' calls (if 10) |
| response_time_min | mean `Delay` of earlier days for `StationArea` × kind of unit, shrunk to the mean of all |
| expertise | a fixed table of kind of unit × call type, 0.3 more for a medical call with `ALSUnit` (at most 1) |
| total_paramedics | 1 with `ALSUnit` (such a unit carries at least one), otherwise 0 |
| weekday | `CallDate` |
| call_type | `CallType` |

Availability, the patient's age, seniority, satisfaction and the hour are not in the file and stay missing.
`AvailableDtTm`, `CallFinalDisposition` and `FinalPriority` are known only after the decision and are never read;
`Delay` is read for the outcome, and for the past of later days. The outcome is 1 when `Delay` is at most 5 minutes.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import BinaryIO, Final

from bentos.dispatch.history import History
from bentos.family import Progress, Record
from services.runtime.errors import InvalidArgument

ON_TIME_MIN: Final = 5.0
"""A unit that arrives within this time, in minutes, is on time."""
UNUSABLE_MIN: Final = 60.0
"""A delay of an hour and more is a unit that forgot to report its arrival, and tells nothing."""

_COLUMNS: Final = (
    "CallNumber",
    "UnitID",
    "CallType",
    "CallDate",
    "Battalion",
    "StationArea",
    "OriginalPriority",
    "ALSUnit",
    "UnitType",
    "Location",
    "Delay",
)
_SEVERITY: Final = {"E": 5, "3": 4, "D": 4, "C": 3, "2": 2, "B": 2, "1": 1, "A": 1, "I": 1, "O": 1}
_NOT_CLASSIFIED: Final = 3

_CALL_TYPES: Final = {
    "Medical Incident": "medical",
    "Structure Fire": "fire",
    "Outside Fire": "fire",
    "Vehicle Fire": "fire",
    "Marine Fire": "fire",
    "Explosion": "fire",
    "Smoke Investigation (Outside)": "fire",
    "Alarms": "alarm",
    "Traffic Collision": "traffic",
    "Train / Rail Incident": "traffic",
    "Aircraft Emergency": "traffic",
    "Industrial Accidents": "trauma",
    "Water Rescue": "rescue",
    "Watercraft in Distress": "rescue",
    "High Angle Rescue": "rescue",
    "Elevator / Escalator Rescue": "rescue",
    "Confined Space / Structure Collapse": "rescue",
    "Extrication / Entrapped (Machinery, Vehicle)": "rescue",
}
_KINDS: Final = {
    "MEDIC": "ambulance",
    "PRIVATE": "ambulance",
    "ENGINE": "engine",
    "TRUCK": "truck",
    "CHIEF": "chief",
    "RESCUE CAPTAIN": "rescue",
    "RESCUE SQUAD": "rescue",
}
# How well the training of each kind of unit fits each type of call: our judgement, not a measurement.
_FIT: Final = {
    "ambulance": {
        "medical": 1.0,
        "trauma": 1.0,
        "traffic": 0.8,
        "fire": 0.4,
        "alarm": 0.3,
        "rescue": 0.5,
        "other": 0.5,
    },
    "engine": {"medical": 0.5, "trauma": 0.6, "traffic": 0.8, "fire": 1.0, "alarm": 1.0, "rescue": 0.6, "other": 0.7},
    "truck": {"medical": 0.3, "trauma": 0.5, "traffic": 0.6, "fire": 1.0, "alarm": 0.9, "rescue": 0.9, "other": 0.6},
    "chief": {"medical": 0.2, "trauma": 0.3, "traffic": 0.4, "fire": 0.9, "alarm": 0.7, "rescue": 0.6, "other": 0.5},
    "rescue": {"medical": 0.6, "trauma": 0.9, "traffic": 0.9, "fire": 0.8, "alarm": 0.5, "rescue": 1.0, "other": 0.6},
}


class Calls(Iterator[Record]):
    """The records of a file, oldest first; `skipped` counts the rows so far whose delay is unusable.

    Raises:
        InvalidArgument: the file is not such a file; the sentence names the line and the column.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self.skipped = 0
        self._records = self._read(path, progress)

    def __next__(self) -> Record:
        return next(self._records)

    def _read(self, path: Path, progress: Progress) -> Iterator[Record]:
        history = History()
        newest = date.min
        with closing(_rows(path, progress)) as rows:
            for line, row in rows:
                day = _day(row["CallDate"], line)
                if day < newest:
                    raise _wrong(line, "CallDate", f"goes back from {newest} to {day}; sort the file by CallDate")
                newest = day
                delay = _delay(row["Delay"])
                if delay is None:
                    self.skipped += 1
                    continue
                yield _record(row, day, delay, history)


def read_records(path: Path, progress: Progress) -> Calls:
    """Reads the past decisions in `path`; see the module for the mapping.

    Raises:
        InvalidArgument: while iterating; the file is not such a file, and the sentence names the line and the column.
    """
    return Calls(path, progress)


def _record(row: dict[str, str], day: date, delay: float, history: History) -> Record:
    call, unit = row["CallNumber"], row["UnitID"]
    call_type = _CALL_TYPES.get(row["CallType"], "other")
    kind = _KINDS.get(row["UnitType"], "other")
    advanced = row["ALSUnit"] == "true"
    features: dict[str, float | str | bool] = {
        "severity": float(_SEVERITY.get(row["OriginalPriority"], _NOT_CLASSIFIED)),
        "total_paramedics": 1.0 if advanced else 0.0,
        "weekday": float(day.weekday()),
        "call_type": call_type,
    }
    fit = _FIT.get(kind, {}).get(call_type)
    if fit is not None:
        features["expertise"] = min(fit + 0.3, 1.0) if advanced and call_type == "medical" else fit
    place = _place(row["Location"])
    group = (row["StationArea"], kind)
    expected = history.expected_delay(day, group)
    if expected is not None:
        features["response_time_min"] = expected
    distance = history.distance_km(unit, place) if place is not None else None
    if distance is not None:
        features["distance_km"] = distance
    history.add(group, unit, place, delay)
    at = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    outcome = 1.0 if delay <= ON_TIME_MIN else 0.0
    return Record(at, f"sf-{call}-{unit}", f"sf-{call}", row["Battalion"], features, outcome)


def _rows(path: Path, progress: Progress) -> Generator[tuple[int, dict[str, str]], None, None]:
    """Gives (line, the columns that we read), and reports the bytes read of the file as it lies on the disk."""
    try:
        total = path.stat().st_size
        with path.open("rb") as raw:
            for line, row in _parsed(raw, compressed=raw.read(2) == b"\x1f\x8b"):
                if line % 1000 == 0:
                    progress(raw.tell(), total)
                yield line, row
        progress(total, total)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is cut short or damaged"
        raise InvalidArgument("data", f"{path.name} cannot be read: {reason}") from error


def _parsed(raw: BinaryIO, *, compressed: bool) -> Iterator[tuple[int, dict[str, str]]]:
    raw.seek(0)
    unpacked = gzip.GzipFile(fileobj=raw) if compressed else raw
    # Latin-1 never fails and keeps ASCII, which is all that the columns we read hold; a wrong file shows in its header.
    lines = (line.decode("latin-1") for line in _bounded(unpacked))
    reader = csv.reader(lines, strict=True)
    try:
        header = [name.removeprefix("\xef\xbb\xbf").strip() for name in next(reader, [])]
        for name in _COLUMNS:
            if name not in header:
                raise _wrong(1, name, "is missing; is this a file of San Francisco fire calls?")
        places = [(name, header.index(name)) for name in _COLUMNS]
        for cells in reader:
            if len(cells) != len(header):
                raise _wrong(reader.line_num, header[min(len(cells), len(header)) - 1], "ends the row too soon or late")
            yield reader.line_num, {name: cells[place] for name, place in places}
    except csv.Error as error:
        raise InvalidArgument("data", f"line {reader.line_num}: this is not CSV ({error})") from error


def _bounded(lines: BinaryIO | gzip.GzipFile, limit: int = 65_536) -> Iterator[bytes]:
    """Gives lines of at most `limit` bytes, so that a file without line ends cannot fill the memory."""
    number = 0
    while line := lines.readline(limit):
        number += 1
        if len(line) == limit:
            raise InvalidArgument("data", f"line {number}: longer than {limit} bytes; this is not a file of fire calls")
        yield line


def _day(text: str, line: int) -> date:
    try:
        month, day, year = text.split("/")
        return date(int(year), int(month), int(day))
    except ValueError:
        raise _wrong(line, "CallDate", f"must be month/day/year, not {text[:32]!r}") from None


def _delay(text: str) -> float | None:
    try:
        delay = float(text)
    except ValueError:
        return None
    return delay if 0.0 < delay < UNUSABLE_MIN else None


def _place(text: str) -> tuple[float, float] | None:
    """Reads "(latitude, longitude)" in degrees."""
    try:
        latitude, longitude = (float(part) for part in text.strip("()").split(","))
    except ValueError:
        return None
    return (latitude, longitude) if math.isfinite(latitude) and math.isfinite(longitude) else None


def _wrong(line: int, column: str, problem: str) -> InvalidArgument:
    return InvalidArgument("data", f"line {line}: column {column!r} {problem}")
