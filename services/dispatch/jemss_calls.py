"""Reads how the calls of a JEMSS city come about: rates, shares of priorities, durations.

`gen_config*.xml` governs, as in JEMSS; a demand file governs the rates when it changes them over time, or when there
is no configuration. With neither, a unit is called ten times a day.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from services.dispatch.city import DemandPeriod
from services.dispatch.distributions import Duration, Shape, parse_call, parse_duration, parse_list
from services.dispatch.jemss_roads import MINUTES_PER_DAY, only
from services.dispatch.jemss_tables import BytesRead, Row, Source, tables
from services.runtime.errors import InvalidArgument

PRIORITY_NAMES: Final = ("highPriority", "medPriority", "lowPriority")
DEFAULT_CALLS_PER_UNIT: Final = 10.0
_MAX_XML_BYTES: Final = 1 << 20
_DEFAULT_SHARES: Final = (0.4, 0.3, 0.3)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallConfiguration:
    """What a call-generation configuration says: calls a day by priority, and durations in minutes."""

    calls_per_day: tuple[float, ...]
    dispatch_delay: Duration
    on_scene: Duration
    handover: Duration
    transport: float


DEFAULT_DURATIONS: Final = {
    "dispatchDelay": Duration(Shape.CONSTANT, 1.0),
    "onSceneDuration": Duration(Shape.EXPONENTIAL, 12.0),
    "handoverDuration": Duration(Shape.EXPONENTIAL, 12.0),
}
DEFAULT_TRANSPORT: Final = 0.8


def priority_index(row: Row, column: str) -> int:
    """Reads a priority by name (`highPriority`) or number from 1 on, and gives its index from 0 on.

    Raises:
        InvalidArgument: names the file and line.
    """
    text = row.text(column)
    if text in PRIORITY_NAMES:
        return PRIORITY_NAMES.index(text)
    return row.integer(column, low=1, high=len(PRIORITY_NAMES)) - 1


def read_configuration(source: Source, priorities: int, read: BytesRead) -> CallConfiguration:
    """Reads the distributions of a `gen_config.xml`; elements that are not there keep common values.

    Raises:
        InvalidArgument: names the file and line.
    """
    text = _text(source, read)
    elements = _elements(_parsed(source, text))

    def value(names: tuple[str, ...], parse: Callable[[str], T], default: T) -> T:
        for name in names:
            if name in elements:
                try:
                    return parse(elements[name])
                except ValueError as error:
                    raise source.wrong(_line_of(text, name), f"{name}: {error}") from None
        return default

    def duration(*names: str) -> Duration:
        return value(names, lambda t: parse_duration(t, minutes_per_unit=MINUTES_PER_DAY), DEFAULT_DURATIONS[names[0]])

    if "interarrivalTime" not in elements:
        raise InvalidArgument("city", f"{source.label}: there is no element interarrivalTime")
    gap = value(("interarrivalTime",), lambda t: parse_duration(t, minutes_per_unit=1.0).mean, 0.0)
    if gap <= 0:
        raise source.wrong(_line_of(text, "interarrivalTime"), "interarrivalTime must be over 0")
    shares = value(("priority",), lambda t: _shares(t, priorities), _DEFAULT_SHARES[:priorities])
    return CallConfiguration(
        calls_per_day=tuple(share / sum(shares) / gap for share in shares),
        dispatch_delay=duration("dispatchDelay"),
        on_scene=duration("onSceneDuration"),
        handover=duration("handoverDuration", "transferDuration"),
        transport=value(("transport", "transfer"), _probability, DEFAULT_TRANSPORT),
    )


def read_demand(source: Source, priorities: int, read: BytesRead) -> tuple[DemandPeriod, ...]:
    """Reads the calls a day by priority of each demand period.

    Raises:
        InvalidArgument: names the file and line.
    """
    found = tables(source, read)
    modes: list[tuple[int, float]] = []
    for number, row in enumerate(only(found, "demandModes", source), start=1):
        if row.integer("modeIndex") != number:
            raise source.wrong(row.line, f"modeIndex must be {number}")
        modes.append((priority_index(row, "priority"), row.number("arrivalRate", low=0.0, high=1e6)))
    sets: list[tuple[float, ...]] = []
    for number, row in enumerate(only(found, "demandSets", source), start=1):
        if row.integer("setIndex") != number:
            raise source.wrong(row.line, f"setIndex must be {number}")
        rates = [0.0] * priorities
        for mode in _mode_indices(row, len(modes)):
            priority, rate = modes[mode]
            if priority >= priorities:
                raise source.wrong(row.line, f"there are only {priorities} priorities")
            rates[priority] += rate
        sets.append(tuple(rates))
    periods: list[DemandPeriod] = []
    for row in only(found, "demandSetsTiming", source):
        start = row.number("startTime", low=0.0) * MINUTES_PER_DAY
        if periods and start <= periods[-1].start_min:
            raise source.wrong(row.line, "startTime must rise from row to row")
        periods.append(DemandPeriod(start, sets[row.integer("setIndex", low=1, high=len(sets)) - 1]))
    return tuple(periods)


def default_demand(units: int, priorities: int) -> tuple[DemandPeriod, ...]:
    """Rates for a city that states none: ten calls a unit and day."""
    shares = _DEFAULT_SHARES[:priorities]
    return (DemandPeriod(0.0, tuple(units * DEFAULT_CALLS_PER_UNIT * share / sum(shares) for share in shares)),)


def _mode_indices(row: Row, modes: int) -> list[int]:
    text = row.text("modeIndices")
    try:
        indices = [int(value) - 1 for value in parse_list(text if text.startswith("[") else f"[{text}]")]
    except ValueError as error:
        raise row.source.wrong(row.line, f"modeIndices: {error}") from None
    if not all(0 <= index < modes for index in indices):
        raise row.source.wrong(row.line, f"modeIndices must be from 1 to {modes}")
    return indices


def _shares(text: str, priorities: int) -> tuple[float, ...]:
    shares = parse_call(text, "Categorical")
    if any(share < 0 for share in shares) or sum(shares) <= 0:
        raise ValueError("shares must be 0 or more, and not all 0")
    if any(shares[priorities:]):
        raise ValueError(f"there are only {priorities} priorities")
    return tuple(shares[:priorities]) + (0.0,) * (priorities - len(shares))


def _probability(text: str) -> float:
    (chance,) = parse_call(text, "Bernoulli")
    if not 0 <= chance <= 1:
        raise ValueError("a probability is from 0 to 1")
    return chance


def _text(source: Source, read: BytesRead) -> str:
    if source.size() > _MAX_XML_BYTES:
        raise InvalidArgument("city", f"{source.label}: a configuration has at most {_MAX_XML_BYTES} bytes")
    with source.lines(read) as lines:
        return "".join(lines)


def _parsed(source: Source, text: str) -> ET.Element:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InvalidArgument("city", f"{source.label}: a configuration has no document type")
    try:
        return ET.fromstring(text)  # noqa: S314 - entities cannot be declared without a document type
    except ET.ParseError as error:
        raise source.wrong(error.position[0], "not well-formed XML") from None
    except ValueError:
        raise InvalidArgument("city", f"{source.label}: not well-formed XML") from None


def _elements(root: ET.Element) -> dict[str, str]:
    place = root.find("sim/callDistributions")
    return {} if place is None else {element.tag: (element.text or "").strip() for element in place}


def _line_of(text: str, element: str) -> int:
    return text[: max(text.find(f"<{element}"), 0)].count("\n") + 1
