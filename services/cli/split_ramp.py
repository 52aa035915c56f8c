"""`turnout split ramp`: weights that change by a schedule."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.durations import seconds
from services.cli.output import Format, FormatOption
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption, NameArgument, UnreadyOption, WhyOption, connect, parse_weights
from services.cli.split_shown import print_one
from services.runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from turnout.v1 import experiment_pb2


def ramp(
    name: NameArgument,
    *,
    step: Annotated[
        list[str] | None, typer.Option("--step", help="A step: AFTER:a=90,b=10, such as 0:b=5 or 1h:b=20; repeat it.")
    ] = None,
    starts_in: Annotated[str, typer.Option("--starts-in", help="Time until it starts, such as 30m; else now.")] = "",
    stop: Annotated[
        bool, typer.Option("--stop", help="End the ramp and keep the weights that it has reached.")
    ] = False,
    allow_unready: UnreadyOption = False,
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Change the weights by a schedule, at the same instant on every router; or stop it."""
    from turnout.v1 import experiment_pb2

    if stop == bool(step):
        raise InvalidArgument("step", "give --step for each step of the schedule, or --stop")
    wanted = parse_ramp(step or [], starts_in)
    with connect(hub, config) as server:
        revision = server.experiment(name).revision
        if stop:
            request = experiment_pb2.StopRampRequest(name=name, base_revision=revision, why=why)
            print_one(server.stop_ramp(request), output)
            return
        change = experiment_pb2.SetStrategyRequest(
            name=name, base_revision=revision, ramp=wanted, why=why, allow_unready=allow_unready
        )
        print_one(server.set_strategy(change), output)


def parse_ramp(steps: list[str], starts_in: str) -> experiment_pb2.Ramp:
    """Reads the steps of a ramp.

    Raises:
        InvalidArgument: names --step or --starts-in.
    """
    from turnout.v1 import experiment_pb2

    parsed = []
    for one in steps:
        after, colon, weights = one.partition(":")
        if not colon or not weights.strip():
            raise InvalidArgument("step", f"--step must be like 1h:a=90,b=10, not {one[:80]!r}")
        parsed.append(
            experiment_pb2.RampStep(after_seconds=seconds("--step", after), weights=parse_weights(weights, "--step"))
        )
    starts_at = int(time.time()) + seconds("--starts-in", starts_in) if starts_in else 0
    return experiment_pb2.Ramp(starts_at_unix_s=starts_at, steps=parsed)
