"""`turnout split`: the split of a family's traffic among arms, read and changed through the hub."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.durations import seconds, time_of_day
from services.cli.output import Format, FormatOption, emit
from services.cli.settings import DEFAULT_CONFIG, ConfigOption, load_config
from services.runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from services.cli.hub import Hub
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


FamilyArgument = Annotated[str, typer.Argument(help="Prediction problem, for example dispatch.")]
HubOption = Annotated[str | None, typer.Option("--hub", envvar="TURNOUT_HUB", help="The hub's gRPC address.")]
WhyOption = Annotated[str, typer.Option("--why", help="Why, for the history.")]


@app.command()
def show(
    family: FamilyArgument,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the arms, their weights and the share of traffic that each one gets."""
    with connect(hub, config) as server:
        _print(server.experiment(family), output)


@app.command("set")
def set_(
    family: FamilyArgument,
    *,
    strategy: Annotated[StrategyName | None, typer.Option("--strategy", help="How an arm is chosen.")] = None,
    weights: Annotated[str, typer.Option("--weights", help="New weights, for example a=90,b=10.")] = "",
    window: Annotated[str | None, typer.Option("--window", help="time: length of a window, such as 1h.")] = None,
    offset: Annotated[str, typer.Option("--offset", help="time: start of the first window.")] = "0",
    burn_in: Annotated[str, typer.Option("--burn-in", help="time: start of a block left out of analysis.")] = "0",
    time_zone: Annotated[str, typer.Option("--time-zone", help="time: IANA zone, such as Europe/Paris.")] = "",
    assignment: Annotated[AssignmentName, typer.Option("--assignment", help="time: how a block gets its arm.")] = (
        AssignmentName.SEEDED
    ),
    timetable: Annotated[str, typer.Option("--timetable", help="time: such as 00:00=a,08:30=b, instead.")] = "",
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Change the strategy, the weights, or both; all routers follow within a second."""
    from turnout.v1 import experiment_pb2

    new_weights = parse_weights(weights)
    if strategy is None and not new_weights:
        raise InvalidArgument("strategy", "nothing to change: give --strategy, --weights, or both")
    request = experiment_pb2.SetStrategyRequest(name=family, weights=new_weights, why=why)
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
                    offset=offset,
                    burn_in=burn_in,
                    time_zone=time_zone,
                    assignment=assignment,
                    timetable=timetable,
                )
            )
    if window is not None and strategy is not StrategyName.TIME:
        raise InvalidArgument("window", "--window goes with --strategy time")
    with connect(hub, config) as server:
        request.base_revision = server.experiment(family).revision
        _print(server.set_strategy(request), output)


@app.command()
def pause(
    family: FamilyArgument,
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Send all traffic to the champion."""
    from turnout.v1 import experiment_pb2

    with connect(hub, config) as server:
        revision = server.experiment(family).revision
        request = experiment_pb2.PauseExperimentRequest(name=family, base_revision=revision, why=why)
        _print(server.pause(request), output)


@app.command()
def resume(
    family: FamilyArgument,
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """End a pause."""
    from turnout.v1 import experiment_pb2

    with connect(hub, config) as server:
        revision = server.experiment(family).revision
        request = experiment_pb2.ResumeExperimentRequest(name=family, base_revision=revision, why=why)
        _print(server.resume(request), output)


def connect(address: str | None, config: Path) -> Hub:
    """Opens the hub that was named, or the file's."""
    from services.cli.hub import Hub

    return Hub(address or load_config(config).hub.grpc, os.environ.get("TURNOUT_OPERATOR_TOKEN"))


def parse_weights(text: str) -> dict[str, float]:
    """Reads a=90,b=10.

    Raises:
        InvalidArgument: names --weights.
    """
    weights: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        arm, equals, number = part.partition("=")
        try:
            weight = float(number)
        except ValueError:
            equals = ""
        if not (arm and equals) or arm in weights:
            raise InvalidArgument("weights", f"--weights must be like a=90,b=10 with each arm once, not {text[:80]!r}")
        weights[arm] = weight
    return weights


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


def expected_shares(experiment: experiment_pb2.Experiment) -> dict[str, float]:
    """Gives the share of the traffic that each arm is expected to get, by name."""
    if experiment.paused:
        return {arm.name: float(arm.name == experiment.champion) for arm in experiment.arms}
    kind = experiment.strategy.WhichOneof("kind")
    table = list(experiment.strategy.time.timetable) if kind == "time" else []
    if table:
        ends = [entry.start_seconds for entry in table[1:]] + [86_400]
        shares = dict.fromkeys((arm.name for arm in experiment.arms), 0.0)
        for entry, end in zip(table, ends, strict=True):
            shares[entry.arm] += (end - entry.start_seconds) / 86_400
        return shares
    alike = kind == "random" or (kind == "time" and experiment.strategy.time.assignment == _ALTERNATING)
    weights = {arm.name: float(arm.weight > 0) if alike else arm.weight for arm in experiment.arms}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


_ALTERNATING = 2
"""TIME_ASSIGNMENT_ALTERNATING: arms with a weight above 0 take turns."""


def _print(experiment: experiment_pb2.Experiment, output: Format) -> None:
    shares = expected_shares(experiment)
    result: dict[str, Any] = {
        "family": experiment.family,
        "revision": experiment.revision,
        "strategy": experiment.strategy.WhichOneof("kind"),
        "paused": experiment.paused,
        "champion": experiment.champion,
        "arms": {
            arm.name: {"variant": arm.variant, "weight": arm.weight, "expected_share": shares[arm.name]}
            for arm in experiment.arms
        },
    }
    emit(output, result, lambda: _table(result))


def _table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    paused = ", paused" if result["paused"] else ""
    title = f"{result['family']}: {result['strategy']}{paused}, revision {result['revision']}"
    table = Table(title=title, title_justify="left")
    table.add_column("arm")
    table.add_column("variant")
    table.add_column("weight", justify="right")
    table.add_column("expected share", justify="right")
    for name, arm in result["arms"].items():
        crown = " (champion)" if name == result["champion"] else ""
        table.add_row(name + crown, arm["variant"], f"{arm['weight']:g}", f"{arm['expected_share']:.1%}")
    return table
