"""Plots of the report as inline SVG. Pure: numbers in, text out; colours come from the page's style sheet.

Every plot has a title and a description for those who do not see it, and its numbers stand in a table beside it. The
pictures are narrow, so that their letters stay legible where one fills a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 420
HEIGHT: Final = 240
LEFT: Final = 48
BOTTOM: Final = 40
TOP: Final = 28
RIGHT: Final = 14
SERIES: Final = 6
"""Series colours of the style sheet; more than so many repeat, and dashes tell them apart."""
_LABEL: Final = 150
_ROW: Final = 24
_LONGEST: Final = 20
_NOTHING: Final = 1e-9
"""What is smaller is not drawn: lengths of bars, and spans of axes relative to where they lie."""
_EDGE: Final = 24
"""A label whose middle is nearer to the picture's edge is set off from it."""
Points = Sequence[tuple[float, float]]
Ticks = Sequence[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Told:
    """What a picture is called.

    Args:
        name: unique in the page; made of letters, digits and dashes.
        title: what is shown.
        description: the same in a sentence with the main numbers.
    """

    name: str
    title: str
    description: str


class Plot:
    """One plot in linear coordinates.

    Args:
        told: what it is called.
        across: (lowest, highest) of the x axis.
        up: (lowest, highest) of the y axis.
    """

    def __init__(self, told: Told, *, across: tuple[float, float], up: tuple[float, float]) -> None:
        self._told = told
        self._across, self._up = _widened(across), _widened(up)
        self._parts: list[str] = []

    def x(self, value: float) -> float:
        """Gives the place of a value on the x axis."""
        low, high = self._across
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Gives the place of a value on the y axis."""
        low, high = self._up
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x_label: str, y_label: str, x_ticks: Ticks = ()) -> Plot:
        """Draws both axes with their labels; without `x_ticks` the x axis has round numbers."""
        for value in round_numbers(*self._up):
            place = self.y(value)
            self._parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>'
            )
            self._parts.append(_text(LEFT - 6, place + 4, said(value), "end"))
        self._parts.append(_across(self.x, x_ticks or _ticks(self._across), HEIGHT - BOTTOM, x_label, HEIGHT))
        self._parts.append(_text(4, 12, y_label, "start"))
        return self

    def line(self, points: Points, series: int) -> Plot:
        """Draws a line with its points; where a value is not a number there is a gap."""
        runs: list[list[tuple[float, float]]] = [[]]
        for x, y in points:
            if math.isfinite(y):
                runs[-1].append((self.x(x), self.y(y)))
            elif runs[-1]:
                runs.append([])
        for run in runs:
            if len(run) > 1:
                self._path(run, series)
            self._parts += [
                f'<circle class="dot s{series % SERIES}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in run
            ]
        return self

    def outline(self, bins: Iterable[tuple[float, float, float]], series: int) -> Plot:
        """Draws the outline of a histogram: bins as (lower, upper, height), in order."""
        corners = [(x, y) for low, high, height in bins for x, y in ((low, height), (high, height))]
        if corners:
            base = self._up[0]
            whole = [(corners[0][0], base), *corners, (corners[-1][0], base)]
            self._path([(self.x(x), self.y(y)) for x, y in whole], series)
        return self

    def rule(self, start: tuple[float, float], end: tuple[float, float]) -> Plot:
        """Draws a dashed line: a limit, or where something should be."""
        (x1, y1), (x2, y2) = start, end
        places = f'x1="{self.x(x1):.1f}" y1="{self.y(y1):.1f}" x2="{self.x(x2):.1f}" y2="{self.y(y2):.1f}"'
        self._parts.append(f'<line class="rule" {places}/>')
        return self

    def svg(self) -> str:
        """Gives the finished picture."""
        return _picture(self._told, HEIGHT, self._parts)

    def _path(self, places: Points, series: int) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        self._parts.append(f'<polyline class="line s{series % SERIES} d{series // SERIES}" points="{path}"/>')


def bars(told: Told, rows: Sequence[tuple[str, float, float | None, bool]]) -> str:
    """Draws horizontal bars.

    Args:
        told: what the picture is called.
        rows: label, value, limit (a tick across the bar), and whether the bar is one to worry about.
    """
    highest = _longest(max(value, limit or 0.0) for _, value, limit, _ in rows)
    room = WIDTH - _LABEL - 58
    parts = []
    for place, (text, value, limit, bad) in enumerate(rows):
        y = 6 + place * _ROW
        width = max(value, 0.0) / highest * room
        parts.append(_text(_LABEL - 8, y + 13, _short(text), "end"))
        kind = "bad" if bad else "bar"
        parts.append(f'<rect class="{kind}" x="{_LABEL}" y="{y}" width="{width:.1f}" height="16" rx="2"/>')
        after = max(width, (limit or 0.0) / highest * room) + 6
        parts.append(_text(_LABEL + after, y + 13, said(value), "start"))
        if limit is not None:
            x = _LABEL + limit / highest * room
            parts.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 2}" y2="{y + 18}"/>')
    return _picture(told, _ROW * len(rows) + 10, parts)


def ranges(told: Told, rows: Sequence[tuple[str, Sequence[float]]], x_label: str) -> str:
    """Draws where most of the values lie, a row each: a thin line, a thick one within it, and a dot for the middle.

    Args:
        told: what the picture is called.
        rows: label, and five rising numbers: ends of the thin line, of the thick one, and the dot in the third place.
        x_label: what the numbers are, with their unit.
    """
    highest = _longest(max(values) for _, values in rows)

    def x(value: float) -> float:
        return _LABEL + value / highest * (WIDTH - _LABEL - RIGHT)

    base = 8 + _ROW * len(rows)
    parts = [_across(x, _ticks((0.0, highest), 3), base, x_label, base + BOTTOM, left=_LABEL, grid=True)]
    for place, (text, (lowest, low, middle, high, top)) in enumerate(rows):
        y = 18 + place * _ROW
        parts.append(_text(_LABEL - 8, y + 4, _short(text), "end"))
        for kind, start, end in (("thin", lowest, top), ("thick", low, high)):
            parts.append(f'<line class="{kind}" x1="{x(start):.1f}" x2="{x(end):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="middle" cx="{x(middle):.1f}" cy="{y}" r="4"/>')
    return _picture(told, base + BOTTOM, parts)


def round_numbers(low: float, high: float, about: int = 4) -> list[float]:
    """Gives some round numbers in a span, which is not tiny beside where it lies."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= raw * 0.75)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def said(value: float) -> str:
    """Gives a number in few characters."""
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _picture(told: Told, height: float, parts: Iterable[str]) -> str:
    head = (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{told.name}-t {told.name}-d">'
        f'<title id="{told.name}-t">{escape(told.title)}</title>'
        f'<desc id="{told.name}-d">{escape(told.description)}</desc>'
    )
    return head + "".join(parts) + "</svg>"


def _across(
    x: Callable[[float], float],
    ticks: Ticks,
    base: float,
    label: str,
    bottom: float,
    *,
    left: float = LEFT,
    grid: bool = False,
) -> str:
    """Draws an x axis: its line, labels at the ticks, and what they are."""
    parts = [f'<line class="axis" x1="{left}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>']
    for value, text in ticks:
        place = x(value)
        if grid:
            parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="4" y2="{base}"/>')
        # A label at the edge must not be cut off.
        near = place > WIDTH - _EDGE and len(text) > 3
        parts.append(_text(place + (RIGHT - 2 if near else 0), base + 16, text, "end" if near else "middle"))
    parts.append(_text((left + WIDTH - RIGHT) / 2, bottom - 4, label, "middle"))
    return "".join(parts)


def _ticks(span: tuple[float, float], about: int = 4) -> Ticks:
    return [(one, said(one)) for one in round_numbers(*span, about)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _longest(values: Iterable[float]) -> float:
    longest = max(values, default=0.0)
    return longest if longest > _NOTHING else 1.0


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _widened(span: tuple[float, float]) -> tuple[float, float]:
    """Gives a span that an axis can be drawn of: numbers that cannot be told apart are one number."""
    low, high = span
    return span if high - low > _NOTHING * max(abs(low), abs(high), 1.0) else (low - 0.5, low + 0.5)
