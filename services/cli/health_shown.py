"""Health as people see it: what is wrong, why, how fresh that is, and where to look next. Each reason is told once."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from services.cli.moments import ago, length, seconds_since, utc

COLOURS: Final = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}
_LATE_SECONDS: Final = 60.0
"""A check that is overdue by more is told: what is shown may no longer be so."""
_SILENT_SECONDS: Final = 60.0
"""A router that was not heard of for longer is marked; each ships at least every few seconds."""
_SUFFIXES: Final = {"s": "_seconds", "bytes": "_bytes"}


def told(dimensions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leaves out what is said twice.

    The platform's own model, predictions and fallback are sums over families. Where each family has its own line they
    say nothing more; where only one family was asked for, they keep what the others contribute.

    Args:
        dimensions: as `services.cli.health.plain` gives them.
    """
    own: dict[str, list[dict[str, Any]]] = {}
    for one in dimensions:
        if one["family"]:
            own.setdefault(one["dimension"], []).append(one)
    kept = []
    for one in dimensions:
        families = one["measures"].get("families")
        if one["family"] or families is None:
            kept.append(one)
            continue
        there = own.get(one["dimension"], [])
        if len(there) < families["value"]:
            said = {f"{part['family']}: {reason}" for part in there for reason in part["reasons"]}
            kept.append(one | {"reasons": [reason for reason in one["reasons"] if reason not in said]})
    return kept


def health_table(result: dict[str, Any], now: float) -> RenderableType:
    """Shows health and books.

    Args:
        result: as `services.cli.health.plain` gives it.
        now: seconds since 1970.
    """
    parts = told(result["dimensions"])
    return Group(*_freshness(result, now), *_dimensions(parts), *_unserved(parts, result), *_books(result, now))


def _freshness(result: dict[str, Any], now: float) -> list[RenderableType]:
    checked, following = result["checked_at"], result["next_check"]
    if not checked:
        return [Text("The first check cycle has not ended yet: ask again in some seconds.")]
    state = result["state"]
    line = f"checked {utc(checked)}, {ago(checked, now)}"
    overdue = seconds_since(following, now) if following else 0.0
    if overdue <= 0:
        line += f"; next {ago(following, now)}"
    lines: list[RenderableType] = [Text.assemble((state, f"bold {COLOURS.get(state, 'white')}"), f" · {line}")]
    if overdue > _LATE_SECONDS:
        warning = f"The next check was due {length(overdue)} ago and has not ended: all of this may be out of date."
        lines.append(Text(f"{warning} Look at the hub's log.", style="red"))
    return lines


def _dimensions(parts: list[dict[str, Any]]) -> list[RenderableType]:
    if not parts:
        return []
    table = Table()
    for name in ("dimension", "of", "state"):
        table.add_column(name, no_wrap=name != "of")
    table.add_column("numbers")
    for one in parts:
        state = f"[{COLOURS.get(one['state'], 'white')}]{one['state']}[/]"
        whose = escape(one["family"]) or ("all families" if "families" in one["measures"] else "platform")
        table.add_row(one["dimension"], whose, state, "\n".join(numbers(one["measures"])))
    shown: list[RenderableType] = [table]
    for one in (part for part in parts if part["reasons"]):
        state = "" if one["state"] == "healthy" else one["state"]
        title = f"{one['family'] or 'platform'}, {one['dimension']}:"
        bullets = Table.grid(padding=(0, 1))
        for reason in one["reasons"]:
            bullets.add_row(" •", escape(reason))
        shown += [Text.assemble(title, " ", (state, COLOURS.get(state, "white"))), bullets]
    if any(one["state"] != "healthy" for one in parts):
        shown.append(Text("More: `turnout alerts list` says what fires since when, `turnout drift` what drifts."))
    return shown


def _unserved(parts: list[dict[str, Any]], result: dict[str, Any]) -> list[RenderableType]:
    """Says that there is nothing to be well or unwell."""
    if not result["checked_at"] or any(one["family"] or one["reasons"] for one in parts):
        return []
    return [Text("No family is served yet: declare one under `families` in turnout.yaml, or run `turnout train`.")]


def _books(result: dict[str, Any], now: float) -> list[RenderableType]:
    books = result["ledger"]
    if books["refused"]:
        return [Text(books["refused"], style="red")]
    waiting = books["outcomes_waiting"]
    title = f"Ledger · {_bytes(books['database_bytes'])}" + (
        f" · {waiting:,} outcomes wait for their decision" if waiting else ""
    )
    if not books["routers"]:
        return [Text(""), Text(title), Text("No router has told of its journal yet.")]
    table = Table(title=title, title_justify="left")
    table.add_column("router")
    for name in ("started", "= stored", "+ pending", "+ set aside"):
        table.add_column(name, justify="right")
    table.add_column("last heard", no_wrap=True)
    lost = []
    for one in books["routers"]:
        silent = not one["last_heard"] or seconds_since(one["last_heard"], now) > _SILENT_SECONDS
        heard = ago(one["last_heard"], now) if one["last_heard"] else "never"
        counts = [f"{one[name]:,}" for name in ("started", "stored", "pending", "set_aside")]
        table.add_row(escape(one["router"]), *counts, f"[yellow]{heard}[/]" if silent else heard)
        if not one["balanced"]:
            missing = one["started"] - one["stored"] - one["pending"] - one["set_aside"]
            lost.append(Text(f"{one['router']}: the books do not add up, by {missing:+,} records", style="red"))
    return [Text(""), table, *lost]


def numbers(measures: dict[str, dict[str, Any]]) -> list[str]:
    """Gives each measure in a few words."""
    return [_number(name, found) for name, found in measures.items()]


def _number(name: str, found: dict[str, Any]) -> str:
    value, unit, limit = found["value"], found["unit"], found["limit"]
    name = name.removesuffix(_SUFFIXES.get(unit, "")).replace("_", " ")
    if name.endswith(" rate"):
        shown, bound = f"{value:.2%}", "" if limit is None else f" (limit {limit:.0%})"
    elif unit == "bytes":
        shown, bound = _bytes(value), "" if limit is None else f" (limit {_bytes(limit)})"
    else:
        said = f"{value:,.3g}" if value % 1 and abs(value) < 1000 else f"{value:,.0f}"
        shown = said if unit == "1" else f"{said} {unit}"
        bound = "" if limit is None else f" (limit {limit:g})"
    return f"{name} {shown}{bound}"


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
