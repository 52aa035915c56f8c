"""What a report says of shadows: their measures beside those of what callers were told to the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape as html_escape
from typing import TYPE_CHECKING, Any

from services.cli.report_markup import Cell, measured, table, words

if TYPE_CHECKING:
    from rich.console import RenderableType

    from turnout.v1 import monitoring_pb2 as pb


def plain_shadow(one: pb.ShadowQuality) -> dict[str, Any]:
    """Gives what a shadow would have done as plain values."""
    from services.cli.monitoring import measures

    answered = one.window.count
    return {
        "experiment": one.experiment,
        "variant": one.variant,
        "answered": answered,
        "failures": dict(sorted(one.failures.items())),
        "agreement": one.agreed / answered if answered else None,
        "outcomes": one.outcomes,
        "measures": measures(one.measures),
        "told_measures": measures(one.told_measures),
        "latency_p50_ms": one.latency_p50_ms if one.HasField("latency_p50_ms") else None,
        "latency_p99_ms": one.latency_p99_ms if one.HasField("latency_p99_ms") else None,
    }


def sentence(one: dict[str, Any]) -> str:
    """Says what a shadow did with the copies that it got."""
    failed = sum(one["failures"].values())
    why = ", ".join(f"{count:,} {words(reason)}" for reason, count in one["failures"].items())
    parts = [f"{one['answered']:,} copies answered", f"{failed:,} not ({why})" if failed else "none failed"]
    if one["agreement"] is not None:
        parts.append(f"{one['agreement']:.1%} come to the same as what callers were told")
        parts.append(f"p50 {one['latency_p50_ms']:.1f} ms, p99 {one['latency_p99_ms']:.1f} ms a call")
    return "; ".join(parts)


def shadow_tables(shadows: Sequence[dict[str, Any]]) -> Iterator[RenderableType]:
    """Shows shadows in a terminal."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    for one in shadows:
        yield Text(f"Shadow {one['variant']} of {one['experiment']}: {sentence(one)}.")
        if one["measures"]:
            title = f"against {one['outcomes']:,} outcomes"
            shown = Table(title=title, title_justify="left")
            shown.add_column("measure")
            for column in (escape(one["variant"]), "what callers were told"):
                shown.add_column(column, justify="right")
            for measure in one["measures"]:
                cells = (measured(one[kind].get(measure)) for kind in ("measures", "told_measures"))
                shown.add_row(words(measure), *(f"{value} [dim]{interval}[/]" for value, interval in cells))
            yield shown


def shadow_section(shadows: Sequence[dict[str, Any]]) -> str:
    """Gives the shadows' part of the page; empty without any."""
    if not shadows:
        return ""
    parts = []
    for one in shadows:
        name = f"{one['variant']} of {one['experiment']}"
        parts.append(f"<h3>{html_escape(name)}</h3><p>{html_escape(sentence(one))}.</p>")
        if one["measures"]:
            rows: list[list[Cell | float]] = []
            for measure in one["measures"]:
                cells = (measured(one[kind].get(measure)) for kind in ("measures", "told_measures"))
                shown = [Cell(value, remark=interval, numeric=True) for value, interval in cells]
                rows.append([Cell(words(measure)), *shown])
            caption = f"The same {one['outcomes']:,} rows with outcome, with intervals of 95 %"
            parts.append(table(caption, ("measure", one["variant"], "what callers were told"), rows))
    return f"<section><h2>Shadows</h2>{''.join(parts)}</section>"
