"""The report as people see it in a terminal: quality in tables that fit, estimates and drift in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from services.cli.drift_shown import subject
from services.cli.moments import length, utc
from services.cli.report_markup import measured, name, words
from services.cli.report_page import estimate, no_drift
from services.cli.report_shadows import shadow_tables

_LEVELS: Final = {"excellent": "green", "good": "green", "acceptable": "yellow", "poor": "red"}
_INTERVAL: Final = len("0.000–0.000")
_FRAME: Final = 3


class _Measures:
    """Measures by arm, in as many tables as the terminal's width asks for."""

    def __init__(self, variants: Sequence[dict[str, Any]]) -> None:
        self._variants = variants
        self._names = list(dict.fromkeys(measure for one in variants for measure in one["measures"]))
        self._first = max((len(line) for one in variants for line in _arm(one).splitlines()), default=0) + 1 + _FRAME

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Gives the tables."""
        left, row = 0, list[str]()
        for measure in self._names:
            width = max(len(words(measure)), _INTERVAL) + _FRAME
            if row and width > left:
                yield self._table(row)
                row = []
            left = (left if row else options.max_width - self._first) - width
            row.append(measure)
        if row:
            yield self._table(row)

    def _table(self, measures: Sequence[str]) -> Table:
        table = Table()
        table.add_column("arm", overflow="fold")
        for measure in measures:
            table.add_column(words(measure), justify="right", no_wrap=True)
        for one in self._variants:
            table.add_row(escape(_arm(one)), *(_measure(one["measures"].get(measure)) for measure in measures))
        return table


def report_table(result: dict[str, Any]) -> RenderableType:
    """Shows a report as `services.cli.report.plain` makes it."""
    only = "".join(f", {kind} {result[kind]} only" for kind in ("arm", "tenant") if result[kind])
    title = f"{result['family']}{only} · the last {length(result['window_seconds'])}, until {utc(result['until'])}"
    variants = result["variants"]
    if not variants:
        nothing = "No decision was recorded in this time: ask for one with `turnout predict`, or try --window 7d."
        return Group(Text(title, style="bold"), Text(nothing), *_drift(result["findings"]))
    table = Table(title=title, title_justify="left")
    for column in ("arm", "level", "decisions", "with outcome"):
        table.add_column(column, justify="right" if column in {"decisions", "with outcome"} else "left")
    for one in variants:
        level = one["level"].replace("unspecified", "not_enough_data")
        coloured = f"[{_LEVELS.get(level, 'none')}]{level.replace('_', ' ')}[/]"
        table.add_row(escape(_arm(one)), coloured, f"{one['decisions']:,}", f"{one['outcomes']:,}")
    quality: RenderableType = _Measures(variants)
    if not any(one["measures"] for one in variants):
        quality = Text("No outcome was reported in this time, so nobody knows yet how good the answers were.")
    shadows = shadow_tables(result["shadows"])
    return Group(table, quality, *_estimates(variants), *shadows, *_drift(result["findings"]))


def _arm(one: dict[str, Any]) -> str:
    return name(one).replace(", ", "\n", 1) if one["arm"] != one["variant"] else one["arm"]


def _measure(found: dict[str, Any] | None) -> str:
    value, interval = measured(found)
    return f"{value}\n[dim]{interval}[/]" if interval else value


def _estimates(variants: Sequence[dict[str, Any]]) -> list[RenderableType]:
    known = [one for one in variants if one["estimate"] is not None]
    if not known:
        return []
    bullets = Table.grid(padding=(0, 1))
    for one in known:
        bullets.add_row(" •", escape(f"{name(one)}: {estimate(one['estimate'])}"))
    return [Text("Decisions without an outcome yet:"), bullets]


def _drift(findings: Sequence[dict[str, Any]]) -> list[RenderableType]:
    drifting = [one for one in findings if one["verdict"] == "drift"]
    if drifting:
        subjects = ", ".join(dict.fromkeys(map(subject, drifting)))
        sentence = f"{len(drifting)} of {len(findings)} tests found drift: {subjects}. `turnout drift` says more."
        return [Text(sentence, style="red")]
    return [Text(no_drift(findings))]
