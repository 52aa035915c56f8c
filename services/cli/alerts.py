"""`turnout alerts`: what is wrong, what was, and who is to be left in peace about it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.alerts_shown import (
    alert_plain,
    alerts_table,
    event_plain,
    history_table,
    silence_plain,
    silences_table,
)
from services.cli.durations import seconds
from services.cli.monitoring_options import open_monitoring
from services.cli.output import Format, FormatOption, emit
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption
from services.runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from turnout.v1 import monitoring_pb2 as pb

app = typer.Typer(help="Show alerts, resolve and silence them.", no_args_is_help=True)
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the alert.")]
FamilyOption = Annotated[str, typer.Option("--family", help="Only of this family.")]
SeverityOption = Annotated[str, typer.Option("--severity", help="At least: info, low, medium, high or critical.")]
WhyRequired = Annotated[str, typer.Option("--why", help="Why, for the history.")]


@app.command("list")
def list_(
    *,
    family: FamilyOption = "",
    type_: Annotated[str, typer.Option("--type", help="Only of this type, such as feature_drift.")] = "",
    severity: SeverityOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """List the active alerts, newest first; works while the database is away."""
    _list(family, type_, severity, hub, config, output, history=False, limit=1000, since="")


@app.command()
def history(
    *,
    family: FamilyOption = "",
    type_: Annotated[str, typer.Option("--type", help="Only of this type, such as feature_drift.")] = "",
    severity: SeverityOption = "",
    since: Annotated[str, typer.Option("--since", help="Only those of the last so long, such as 7d.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 50,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """List all alerts, also resolved ones, newest first."""
    _list(family, type_, severity, hub, config, output, history=True, limit=limit, since=since)


@app.command()
def show(
    id_: IdArgument,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show one alert, what happened to it, and which handlers know of it."""
    from services.cli.monitoring import instant
    from turnout.v1 import monitoring_pb2 as pb

    with open_monitoring(hub, config) as server:
        found = server.ask(pb.GetAlertRequest(id=id_), pb.GetAlertResponse)
    result = {
        "alert": alert_plain(found.alert),
        "events": [event_plain(one) for one in found.events],
        "told": [{"handler": t.handler, "notice": t.notice, "at": instant(t.at_unix_us)} for t in found.told],
    }
    emit(output, result, lambda: history_table(result))


@app.command()
def stats(
    *,
    family: FamilyOption = "",
    since: Annotated[str, typer.Option("--since", help="Only alerts of the last so long, such as 7d.")] = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Count alerts by type and severity, and show how the handlers do."""
    from services.cli.alerts_shown import statistics_plain, statistics_table
    from turnout.v1 import monitoring_pb2 as pb

    request = pb.AlertStatisticsRequest(family=family, since_unix_us=_since(since))
    with open_monitoring(hub, config) as server:
        result = statistics_plain(server.ask(request, pb.AlertStatisticsResponse))
    emit(output, result, lambda: statistics_table(result))


@app.command()
def resolve(
    id_: IdArgument,
    why: WhyRequired,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Resolve an alert by hand; it stays away until its rule's hold-down ends, even if its condition holds."""
    from turnout.v1 import monitoring_pb2 as pb

    with open_monitoring(hub, config) as server:
        found = server.ask(pb.ResolveAlertRequest(id=id_, why=why), pb.ResolveAlertResponse)
    result = alert_plain(found.alert)
    emit(output, result, lambda: alerts_table([result]))


@app.command()
def silence(
    matchers: Annotated[
        list[str],
        typer.Argument(
            metavar="LABEL=VALUE", help="All must match: family=dispatch, type!=stale_model, feature~=dist*."
        ),
    ],
    *,
    lasts: Annotated[str, typer.Option("--for", help="How long, such as 2h; at most 90d.")],
    why: WhyRequired,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Keep handlers quiet about matching alerts; states and history go on."""
    from turnout.v1 import monitoring_pb2 as pb

    ends = int(time.time() * 1e6) + seconds("--for", lasts) * 1_000_000
    request = pb.SilenceAlertsRequest(matchers=[_matcher(one) for one in matchers], ends_at_unix_us=ends, why=why)
    with open_monitoring(hub, config) as server:
        found = server.ask(request, pb.SilenceAlertsResponse)
    result = {**silence_plain(found.silence), "matched": found.matched}
    emit(output, result, lambda: silences_table([result]))


@app.command()
def unsilence(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of the silence.")],
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """End a silence now."""
    from turnout.v1 import monitoring_pb2 as pb

    with open_monitoring(hub, config) as server:
        found = server.ask(pb.ExpireSilenceRequest(id=id_), pb.ExpireSilenceResponse)
    result = silence_plain(found.silence)
    emit(output, result, lambda: silences_table([result]))


@app.command()
def silences(
    *,
    ended: Annotated[bool, typer.Option("--ended", help="Also those that have ended.")] = False,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """List silences, newest first."""
    from turnout.v1 import monitoring_pb2 as pb

    with open_monitoring(hub, config) as server:
        found = server.ask(pb.ListSilencesRequest(ended=ended), pb.ListSilencesResponse)
    result = [silence_plain(one) for one in found.silences]
    emit(output, result, lambda: silences_table(result))


@app.command()
def watch(
    *,
    family: FamilyOption = "",
    severity: SeverityOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Follow alerts: one JSON object a line, first the active ones, then every change. Ends with Ctrl-C."""
    from turnout.v1 import monitoring_pb2 as pb

    request = pb.WatchAlertsRequest(family=family, min_severity=_severity(severity))
    with open_monitoring(hub, config) as server:
        for step in server.watch(request):
            match step.WhichOneof("step"):
                case "active":
                    for one in step.active.alerts:
                        _line({"sequence": step.active.sequence, "event": "active", "alert": alert_plain(one)})
                case "event":
                    _line(event_plain(step.event))
                case _:
                    pass


def _line(result: dict[str, Any]) -> None:
    print(json.dumps(result, ensure_ascii=False), flush=True)


def _list(  # noqa: PLR0917 - options of two commands, handed on as they are
    family: str,
    type_: str,
    severity: str,
    hub: str | None,
    config: Any,
    output: Format,
    *,
    history: bool,
    limit: int,
    since: str,
) -> None:
    from turnout.v1 import monitoring_pb2 as pb

    request = pb.ListAlertsRequest(
        history=history,
        family=family,
        types=[_type(type_)] if type_ else [],
        min_severity=_severity(severity),
        since_unix_us=_since(since),
        page_size=limit,
    )
    with open_monitoring(hub, config) as server:
        found = server.ask(request, pb.ListAlertsResponse)
    result = [alert_plain(one) for one in found.alerts]
    emit(output, result, lambda: alerts_table(result))


def _since(text: str) -> int:
    return int(time.time() * 1e6) - seconds("--since", text) * 1_000_000 if text else 0


def _severity(text: str) -> pb.Severity.ValueType:
    from turnout.v1 import monitoring_pb2 as pb

    name = f"SEVERITY_{text.upper() or 'UNSPECIFIED'}"
    if name not in pb.Severity.keys():  # noqa: SIM118 - an enum of protobuf is no dictionary
        raise InvalidArgument("severity", "--severity is info, low, medium, high or critical")
    return pb.Severity.Value(name)


def _type(text: str) -> pb.AlertType.ValueType:
    from turnout.v1 import monitoring_pb2 as pb

    name = f"ALERT_TYPE_{text.upper()}"
    if name not in pb.AlertType.keys():  # noqa: SIM118 - an enum of protobuf is no dictionary
        known = ", ".join(one.removeprefix("ALERT_TYPE_").lower() for one in pb.AlertType.keys()[1:])
        raise InvalidArgument("type", f"--type is one of {known}")
    return pb.AlertType.Value(name)


def _matcher(text: str) -> pb.Matcher:
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
