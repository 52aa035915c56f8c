"""What the commands of `turnout split` have in common: their options and the connection to the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.settings import load_config
from services.runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from services.cli.hub import Hub

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Experiment; the main one of a family is called like it.")
]
HubOption = Annotated[str | None, typer.Option("--hub", envvar="TURNOUT_HUB", help="The hub's gRPC address.")]
WhyOption = Annotated[str, typer.Option("--why", help="Why, for the history.")]
UnreadyOption = Annotated[
    bool, typer.Option("--allow-unready", help="Also when no router has an arm's variant ready yet.")
]


def connect(address: str | None, config: Path) -> Hub:
    """Opens the hub that was named, or the file's."""
    from services.cli.hub import Hub

    return Hub(address or load_config(config).hub.grpc, os.environ.get("TURNOUT_OPERATOR_TOKEN"))


def parse_weights(text: str, option: str = "--weights", form: str = "a=90,b=10") -> dict[str, float]:
    """Reads a=90,b=10; `form` shows a person what the option takes.

    Raises:
        InvalidArgument: names the option.
    """
    weights: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        arm, equals, number = part.partition("=")
        try:
            weight = float(number)
        except ValueError:
            equals = ""
        if not (arm and equals) or arm in weights:
            raise InvalidArgument("weights", f"{option} must be like {form}, each name once, not {text[:80]!r}")
        weights[arm] = weight
    return weights


def pairs(option: str, given: list[str], form: str = "NAME=VALUE") -> dict[str, str]:
    """Reads name=value, each name once; `form` shows a person what the option takes.

    Raises:
        InvalidArgument: names the option.
    """
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not (name and equals) or name in found:
            raise InvalidArgument(option, f"{option} must be like {form}, each name once, not {one[:80]!r}")
        found[name] = value
    return found


def layer_slice(option: str, text: str) -> dict[str, object]:
    """Reads LAYER:0-4999, whose last bucket is included.

    Raises:
        InvalidArgument: names the option.
    """
    layer, _, buckets = text.rpartition(":")
    start, dash, last = buckets.partition("-")
    if not (layer and dash and start.isdecimal() and last.isdecimal() and len(start) < 6 and len(last) < 6):
        raise InvalidArgument(option, f"{option} must be like LAYER:0-4999, buckets 0 to 9999, not {text[:80]!r}")
    return {"layer": layer, "start": int(start), "end": int(last) + 1}
