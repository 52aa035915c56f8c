"""What is typed after `turnout alerts`: filters, and the matchers of a silence."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.durations import seconds
from services.runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from turnout.v1 import monitoring_pb2 as pb

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the alert.")]
FamilyOption = Annotated[str, typer.Option("--family", help="Only of this family.")]
SeverityOption = Annotated[str, typer.Option("--severity", help="At least: info, low, medium, high or critical.")]
TypeOption = Annotated[str, typer.Option("--type", help="Only of this type, such as feature_drift.")]
SinceOption = Annotated[str, typer.Option("--since", help="Only alerts of the last so long, such as 7d.")]
WhyRequired = Annotated[str, typer.Option("--why", help="Why, for the history.")]


def since_us(text: str) -> int:
    """Gives the instant so long ago, in microseconds since 1970; 0 for no limit."""
    return int(time.time() * 1e6) - seconds("--since", text) * 1_000_000 if text else 0


def severity_of(text: str) -> pb.Severity.ValueType:
    """Gives the severity of that name; unspecified for none.

    Raises:
        InvalidArgument: there is none of that name.
    """
    from turnout.v1 import monitoring_pb2 as pb

    name = f"SEVERITY_{text.upper() or 'UNSPECIFIED'}"
    if name not in pb.Severity.keys():  # noqa: SIM118 - an enum of protobuf is no dictionary
        raise InvalidArgument("severity", "--severity is info, low, medium, high or critical")
    return pb.Severity.Value(name)


def type_of(text: str) -> pb.AlertType.ValueType:
    """Gives the type of that name.

    Raises:
        InvalidArgument: there is none of that name.
    """
    from turnout.v1 import monitoring_pb2 as pb

    name = f"ALERT_TYPE_{text.upper()}"
    if name not in pb.AlertType.keys():  # noqa: SIM118 - an enum of protobuf is no dictionary
        known = ", ".join(one.removeprefix("ALERT_TYPE_").lower() for one in pb.AlertType.keys()[1:])
        raise InvalidArgument("type", f"--type is one of {known}")
    return pb.AlertType.Value(name)


def matcher(text: str) -> pb.Matcher:
    """Gives a matcher: label=value, label!=value, label~=glob or label!~=glob.

    Raises:
        InvalidArgument: it is none of these.
    """
    from turnout.v1 import monitoring_pb2 as pb

    operators = {
        "!~=": pb.MATCH_OPERATOR_NOT_GLOB,
        "!=": pb.MATCH_OPERATOR_NOT_EQUAL,
        "~=": pb.MATCH_OPERATOR_GLOB,
        "=": pb.MATCH_OPERATOR_EQUAL,
    }
    for sign, operator in operators.items():
        label, found, value = text.partition(sign)
        if found and label:
            return pb.Matcher(label=label, operator=operator, value=value)
    raise InvalidArgument(
        "matchers", f"a matcher is like family=dispatch, type!=stale_model or feature~=dist*, not {text[:80]!r}"
    )


def filters(family: str, type_: str, severity: str, since: str = "") -> str:
    """Gives what was asked for in words, such as " of type high_latency of at least high"; empty for everything."""
    asked = (
        ("of family", family),
        ("of type", type_),
        ("of at least severity", severity),
        ("of the last", since),
    )
    return "".join(f" {word} {value}" for word, value in asked if value)
