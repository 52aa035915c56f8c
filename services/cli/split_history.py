"""`turnout split conclude`, `undo` and `history`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.output import Format, FormatOption, emit
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption, NameArgument, UnreadyOption, WhyOption, connect
from services.cli.split_shown import plain, print_one

if TYPE_CHECKING:
    from turnout.v1 import experiment_pb2


def conclude(
    name: NameArgument,
    *,
    winner: Annotated[str, typer.Option("--winner", help="The arm that won.")],
    allow_unready: UnreadyOption = False,
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """End the comparison: everything goes to the winner from now on."""
    from turnout.v1 import experiment_pb2

    with connect(hub, config) as server:
        request = experiment_pb2.ConcludeExperimentRequest(
            name=name,
            base_revision=server.experiment(name).revision,
            winner=winner,
            why=why,
            allow_unready=allow_unready,
        )
        print_one(server.conclude(request), output)


def undo(
    name: NameArgument,
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Take the newest change back, a deletion too; undoing twice does it again."""
    from turnout.v1 import experiment_pb2

    with connect(hub, config) as server:
        (newest, *_) = server.revisions(name, 1)
        request = experiment_pb2.UndoExperimentRequest(name=name, base_revision=newest.revision, why=why)
        print_one(server.undo(request), output)


def history(
    name: NameArgument,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most this many, newest first.")] = 20,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show who changed what, when and why."""
    with connect(hub, config) as server:
        found = server.revisions(name, limit)
    revisions = [
        plain_revision(one) | {"experiment": plain(one.experiment) if one.HasField("experiment") else None}
        for one in found
    ]
    result = {"name": name, "revisions": revisions}
    emit(output, result, lambda: history_table(result))


def plain_revision(revision: experiment_pb2.ExperimentRevision | experiment_pb2.LayerRevision) -> dict[str, Any]:
    """Gives who changed what, when and why, as plain values."""
    at = datetime.fromtimestamp(revision.at_unix_us / 1e6, UTC)
    return {
        "revision": revision.revision,
        "at": at.isoformat(timespec="milliseconds"),
        "who": revision.who,
        "why": revision.why,
        "changes": list(revision.changes),
    }


def history_table(result: dict[str, Any]) -> Any:
    """Shows a history: the plain values of `name` and `revisions`."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"history of {result['name']}", title_justify="left")
    table.add_column("revision", justify="right")
    for column in ("at (UTC)", "who", "changes", "why"):
        table.add_column(column)
    for one in result["revisions"]:
        at = one["at"].partition(".")[0].replace("T", " ")
        cells = (at, one["who"], "\n".join(one["changes"]), one["why"])
        table.add_row(str(one["revision"]), *(escape(cell) for cell in cells))
    return table
