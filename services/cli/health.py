"""`turnout health`: the four dimensions, and the books of the routers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli.monitoring_options import open_monitoring
from services.cli.output import Format, FormatOption, emit
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption
from services.runtime.errors import TurnoutError

if TYPE_CHECKING:
    from turnout.v1 import monitoring_pb2 as pb

UNWELL: Final = 1
_COLOURS: Final = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}


def health(
    family: Annotated[str, typer.Argument(help="Only this family, beside the platform's own dimensions.")] = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show health with reasons and numbers, and each router's books. Exit code 1 when something is unhealthy."""
    from turnout.v1 import monitoring_pb2 as pb

    with open_monitoring(hub, config) as server:
        found = server.ask(pb.HealthRequest(family=family), pb.HealthResponse)
        try:
            books, refused = server.ask(pb.LedgerStatusRequest(), pb.LedgerStatusResponse), ""
        except TurnoutError as error:
            # The books are in the database; the health is told all the same.
            books, refused = pb.LedgerStatusResponse(), error.message
    result = plain(found, books, refused)
    emit(output, result, lambda: _tables(result))
    if found.state == pb.HEALTH_STATE_UNHEALTHY:
        raise typer.Exit(UNWELL)


def plain(found: pb.HealthResponse, books: pb.LedgerStatusResponse, refused: str) -> dict[str, Any]:
    """Gives health and books as plain values."""
    from services.cli.monitoring import instant, measures, word
    from turnout.v1 import monitoring_pb2 as pb

    return {
        "state": word(pb.HealthState, found.state),
        "checked_at": instant(found.checked_at_unix_us),
        "next_check": instant(found.next_check_unix_us),
        "cycle_seconds": found.cycle_seconds,
        "dimensions": [
            {
                "dimension": word(pb.HealthDimension, one.dimension),
                "family": one.family,
                "state": word(pb.HealthState, one.state),
                "reasons": list(one.reasons),
                "measures": measures(one.measures),
            }
            for one in found.dimensions
        ],
        "ledger": {
            "refused": refused,
            "outcomes_waiting": books.outcomes_waiting,
            "database_bytes": books.database_bytes,
            "routers": [
                {
                    "router": one.router,
                    "started": one.started,
                    "stored": one.stored,
                    "pending": one.pending,
                    "set_aside": one.set_aside,
                    "balanced": one.started == one.stored + one.pending + one.set_aside,
                    "last_heard": instant(one.last_shipped_unix_us),
                }
                for one in books.routers
            ],
        },
    }


def _tables(result: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    checked = result["checked_at"].replace("T", " ").removesuffix("+00:00") or "not yet"
    seconds = result["cycle_seconds"]
    dimensions = Table(title=f"{result['state']} · checked {checked} in {seconds:.2f} s", title_justify="left")
    for name in ("dimension", "family", "state", "numbers", "reasons"):
        dimensions.add_column(name)
    for one in result["dimensions"]:
        colour = _COLOURS.get(one["state"], "white")
        numbers = "\n".join(_number(name, found) for name, found in one["measures"].items())
        state = f"[{colour}]{one['state']}[/]"
        dimensions.add_row(one["dimension"], one["family"] or "–", state, numbers, escape("\n".join(one["reasons"])))
    books = result["ledger"]
    if books["refused"]:
        return Group(dimensions, escape(books["refused"]))
    title = f"ledger · {books['database_bytes'] / 1e6:.1f} MB · {books['outcomes_waiting']} outcomes wait"
    routers = Table(title=title, title_justify="left")
    for name in ("router", "started", "", "stored", "", "pending", "", "set aside", "last heard"):
        routers.add_column(name, justify="left" if name in {"router", "last heard"} else "right")
    for one in books["routers"]:
        heard = one["last_heard"].replace("T", " ").removesuffix("+00:00")
        equals = "=" if one["balanced"] else "≠"
        parts = (str(one["stored"]), "+", str(one["pending"]), "+", str(one["set_aside"]))
        routers.add_row(escape(one["router"]), str(one["started"]), equals, *parts, heard)
    return Group(dimensions, routers)


def _number(name: str, found: dict[str, Any]) -> str:
    value, unit, limit = found["value"], found["unit"], found["limit"]
    if name.endswith("_rate"):
        shown, bound = f"{value:.2%}", "" if limit is None else f" (limit {limit:.0%})"
    else:
        said = f"{value:,.3f}" if value % 1 else f"{value:,.0f}"
        shown = said if unit == "1" else f"{said} {unit}"
        bound = "" if limit is None else f" (limit {limit:g})"
    return f"{name.replace('_', ' ')} {shown}{bound}"
