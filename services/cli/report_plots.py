"""Plots of the report as inline SVG. Pure: numbers in, text out; colours come from the page's style sheet.

Every plot has a title and a description for those who do not see it, and its numbers stand in a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

WIDTH: Final = 560
HEIGHT: Final = 240
LEFT: Final = 56
BOTTOM: Final = 34
TOP: Final = 14
RIGHT: Final = 14
SERIES: Final = 6
"""Series colours of the style sheet; more than so many repeat, and dashes tell them apart."""
Points = Sequence[tuple[float, float]]


class Plot:
    """One plot in linear coordinates.

    Args:
        name: unique in the page; made of letters, digits and dashes.
        title: what is shown.
        description: the same in a sentence with the main numbers.
        across: (lowest, highest) of the x axis.
        up: (lowest, highest) of the y axis.
    """

    def __init__(
        self, name: str, title: str, description: str, *, across: tuple[float, float], up: tuple[float, float]
    ) -> None:
        self._name, self._title, self._description = name, title, description
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

    def axes(self, x_label: str, y_label: str, x_ticks: Sequence[tuple[float, str]] = ()) -> Plot:
        """Draws both axes; without `x_ticks` the x axis has round numbers."""
        for value in _round_numbers(*self._up):
            place = self.y(value)
            self._parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>'
            )
            self._text(LEFT - 6, place + 4, _said(value), "end")
        for value, text in x_ticks or [(one, _said(one)) for one in _round_numbers(*self._across)]:
            place = self.x(value)
            # A label at the edge must not be cut off.
            anchor = "end" if place > WIDTH - 3 * RIGHT and len(text) > 4 else "middle"
            self._text(place, HEIGHT - BOTTOM + 16, text, anchor)
        self._text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, x_label, "middle")
        self._text(LEFT, TOP - 4, y_label, "start")
        base = HEIGHT - BOTTOM
        self._parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
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
            if run:
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
                self._parts.append(f'<polyline class="line s{series % SERIES} d{series // SERIES}" points="{path}"/>')
                self._parts += [
                    f'<circle class="dot s{series % SERIES}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in run
                ]
        return self

    def rule(self, start: tuple[float, float], end: tuple[float, float]) -> Plot:
        """Draws a dashed line: a limit, or where something should be."""
        (x1, y1), (x2, y2) = start, end
        places = f'x1="{self.x(x1):.1f}" y1="{self.y(y1):.1f}" x2="{self.x(x2):.1f}" y2="{self.y(y2):.1f}"'
        self._parts.append(f'<line class="rule" {places}/>')
        return self

    def svg(self) -> str:
        """Gives the finished picture."""
        head = (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{self._name}-t {self._name}-d">'
            f'<title id="{self._name}-t">{escape(self._title)}</title>'
            f'<desc id="{self._name}-d">{escape(self._description)}</desc>'
        )
        return head + "".join(self._parts) + "</svg>"

    def _text(self, x: float, y: float, text: str, anchor: str) -> None:
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')


def bars(name: str, title: str, description: str, rows: Sequence[tuple[str, float, float | None, bool]]) -> str:
    """Draws horizontal bars.

    Args:
        name: unique in the page.
        title: what is shown.
        description: the same in a sentence.
        rows: label, value, limit (a tick across the bar), and whether the bar is one to worry about.
    """
    label, step = 190, 22
    height = step * len(rows) + 10
    highest = max(
        [value for _, value, _, _ in rows] + [limit for _, _, limit, _ in rows if limit is not None], default=0
    )
    highest = highest or 1.0
    room = WIDTH - label - 70
    parts = []
    for place, (text, value, limit, bad) in enumerate(rows):
        y = 6 + place * step
        width = max(value, 0.0) / highest * room
        parts.append(f'<text x="{label - 8}" y="{y + 13}" text-anchor="end">{escape(_short(text))}</text>')
        parts.append(
            f'<rect class="{"bad" if bad else "bar"}" x="{label}" y="{y}" width="{width:.1f}" height="16" rx="2"/>'
        )
        after = max(width, (limit or 0.0) / highest * room) + 6
        parts.append(f'<text x="{label + after:.1f}" y="{y + 13}">{_said(value)}</text>')
        if limit is not None:
            x = label + limit / highest * room
            parts.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 2}" y2="{y + 18}"/>')
    head = (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>'
    )
    return head + "".join(parts) + "</svg>"


def _short(text: str) -> str:
    return text if len(text) <= 28 else text[:27] + "…"


def _widened(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _round_numbers(low: float, high: float) -> list[float]:
    """Gives about five round numbers in a span."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= raw * 0.75)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _said(value: float) -> str:
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
