"""`turnout health`: the four dimensions, and the books of the routers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli.monitoring_options import check_watched, open_monitoring
from services.cli.output import Format, FormatOption, emit
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption
from services.runtime.errors import TurnoutError

if TYPE_CHECKING:
    from turnout.v1 import monitoring_pb2 as pb

UNWELL: Final = 1


def health(
    family: Annotated[str, typer.Argument(help="Only this family, beside the platform's own dimensions.")] = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show health with reasons and numbers, and each router's books. Exit code 1 when something is unhealthy."""
    from services.cli.health_shown import health_table
    from turnout.v1 import monitoring_pb2 as pb

    with open_monitoring(hub, config) as server:
        found = server.ask(pb.HealthRequest(family=family), pb.HealthResponse)
        if family and not any(one.family == family for one in found.dimensions):
            check_watched(server, family)
        try:
            books, refused = server.ask(pb.LedgerStatusRequest(), pb.LedgerStatusResponse), ""
        except TurnoutError as error:
            # The books are in the database; the health is told all the same.
            books, refused = pb.LedgerStatusResponse(), error.message
    result = plain(found, books, refused)
    emit(output, result, lambda: health_table(result, time.time()))
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
