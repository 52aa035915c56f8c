"""`turnout split`: how traffic is split among arms, read and changed through the hub."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import split_definition, split_history, split_layers, split_ramp, split_results, split_routers
from services.cli.durations import seconds, time_of_day
from services.cli.output import Format, FormatOption
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption, NameArgument, UnreadyOption, WhyOption, connect, parse_weights
from services.cli.split_shown import print_all, print_one
from services.runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from turnout.v1 import experiment_pb2

app = typer.Typer(help="Show and change how traffic is split among arms.", no_args_is_help=True)


class StrategyName(StrEnum):
    """Strategies, as in turnout.yaml."""

    RANDOM = "random"
    ROUND_ROBIN = "round_robin"
    TIME = "time"
    WEIGHTED = "weighted"


class AssignmentName(StrEnum):
    """How a switchback block gets its arm."""

    SEEDED = "seeded"
    ALTERNATING = "alternating"


@app.command()
def show(
    name: NameArgument,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the arms, their weights and the share of traffic that each one gets."""
    with connect(hub, config) as server:
        print_one(server.experiment(name), output)


@app.command("list")
def list_(
    family: Annotated[str, typer.Argument(help="Only those of this family.")] = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """List the experiments."""
    with connect(hub, config) as server:
        found = server.experiments(family)
        print_all(list(found.experiments), found.version, output)


@app.command("set")
def set_(
    name: NameArgument,
    *,
    strategy: Annotated[StrategyName | None, typer.Option("--strategy", help="How an arm is chosen.")] = None,
    weights: Annotated[str, typer.Option("--weights", help="New weights, for example a=90,b=10.")] = "",
    window: Annotated[str | None, typer.Option("--window", help="time: length of a window, such as 1h.")] = None,
    offset: Annotated[str | None, typer.Option("--offset", help="time: start of the first window.")] = None,
    burn_in: Annotated[
        str | None, typer.Option("--burn-in", help="time: start of a block left out of analysis.")
    ] = None,
    time_zone: Annotated[str | None, typer.Option("--time-zone", help="time: IANA zone, such as Europe/Paris.")] = None,
    assignment: Annotated[
        AssignmentName | None, typer.Option("--assignment", help="time: how a block gets its arm; else seeded.")
    ] = None,
    timetable: Annotated[
        str | None, typer.Option("--timetable", help="time: such as 00:00=a,08:30=b, instead.")
    ] = None,
    allow_unready: UnreadyOption = False,
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Change the strategy, the weights, or both; all routers follow within a second."""
    from turnout.v1 import experiment_pb2

    of_time = {
        "window": window,
        "offset": offset,
        "burn-in": burn_in,
        "time-zone": time_zone,
        "assignment": assignment,
        "timetable": timetable,
    }
    alone = [name for name, given in of_time.items() if given is not None and strategy is not StrategyName.TIME]
    if alone:
        raise InvalidArgument(alone[0].replace("-", "_"), f"--{alone[0]} goes with --strategy time")
    new_weights = parse_weights(weights)
    if strategy is None and not new_weights:
        raise InvalidArgument("strategy", "nothing to change: give --strategy, --weights, or both")
    request = experiment_pb2.SetStrategyRequest(name=name, weights=new_weights, why=why, allow_unready=allow_unready)
    match strategy:
        case None:
            pass
        case StrategyName.RANDOM:
            request.strategy.random.SetInParent()
        case StrategyName.ROUND_ROBIN:
            request.strategy.round_robin.SetInParent()
        case StrategyName.WEIGHTED:
            request.strategy.weighted.SetInParent()
        case StrategyName.TIME:
            request.strategy.time.CopyFrom(
                _time(
                    window=window or "1h",
                    offset=offset or "0",
                    burn_in=burn_in or "0",
                    time_zone=time_zone or "",
                    assignment=assignment or AssignmentName.SEEDED,
                    timetable=timetable or "",
                )
            )
    with connect(hub, config) as server:
        request.base_revision = server.experiment(name).revision
        print_one(server.set_strategy(request), output)


@app.command()
def pause(
    name: NameArgument,
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Send all traffic to the champion."""
    from turnout.v1 import experiment_pb2

    with connect(hub, config) as server:
        revision = server.experiment(name).revision
        request = experiment_pb2.PauseExperimentRequest(name=name, base_revision=revision, why=why)
        print_one(server.pause(request), output)


@app.command()
def resume(
    name: NameArgument,
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """End a pause."""
    from turnout.v1 import experiment_pb2

    with connect(hub, config) as server:
        revision = server.experiment(name).revision
        request = experiment_pb2.ResumeExperimentRequest(name=name, base_revision=revision, why=why)
        print_one(server.resume(request), output)


for _command in (
    split_definition.create,
    split_definition.update,
    split_definition.delete,
    split_ramp.ramp,
    split_history.conclude,
    split_history.undo,
    split_history.history,
    split_results.results,
    split_routers.status,
    split_routers.decide,
    split_routers.strategies,
):
    app.command()(_command)
app.add_typer(split_layers.app, name="layers")


def _time(
    *, window: str, offset: str, burn_in: str, time_zone: str, assignment: AssignmentName, timetable: str
) -> experiment_pb2.TimeStrategy:
    from turnout.v1 import experiment_pb2

    kinds = {
        AssignmentName.SEEDED: experiment_pb2.TIME_ASSIGNMENT_SEEDED,
        AssignmentName.ALTERNATING: experiment_pb2.TIME_ASSIGNMENT_ALTERNATING,
    }
    entries = []
    for part in filter(None, (piece.strip() for piece in timetable.split(","))):
        at, _, arm = part.partition("=")
        start = time_of_day("--timetable", at)
        entries.append(experiment_pb2.TimetableEntry(start_seconds=start, arm=arm.strip()))
    return experiment_pb2.TimeStrategy(
        window_seconds=seconds("--window", window),
        offset_seconds=seconds("--offset", offset),
        burn_in_seconds=seconds("--burn-in", burn_in),
        time_zone=time_zone,
        assignment=experiment_pb2.TIME_ASSIGNMENT_TIMETABLE if entries else kinds[assignment],
        timetable=entries,
    )
