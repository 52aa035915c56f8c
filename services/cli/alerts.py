"""`turnout alerts`: what is wrong, what was, and who is to be left in peace about it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli.alerts_options import (
    FamilyOption,
    IdArgument,
    SeverityOption,
    SinceOption,
    TypeOption,
    WhyRequired,
    filters,
    matcher,
    severity_of,
    since_us,
    type_of,
)
from services.cli.durations import seconds
from services.cli.harmless import in_json
from services.cli.monitoring_options import open_monitoring
from services.cli.output import Format, FormatOption, emit
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption

if TYPE_CHECKING:
    from turnout.v1 import monitoring_pb2 as pb

MOST: Final = 1000
"""Active alerts that are shown at most."""

app = typer.Typer(help="Show alerts, resolve and silence them.", no_args_is_help=True)


@app.command("list")
def list_(
    *,
    family: FamilyOption = "",
    type_: TypeOption = "",
    severity: SeverityOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """List the active alerts, worst first; works while the database is away."""
    from services.cli.alerts_shown import SEVERITIES, active_table, alert_plain
    from services.cli.monitoring import instant
    from turnout.v1 import monitoring_pb2 as pb

    request = _request(family, type_, severity)
    with open_monitoring(hub, config) as server:
        found = server.ask(request, pb.ListAlertsResponse)
        # That nothing is wrong is worth as much as the last look is young.
        checked = instant(server.ask(pb.HealthRequest(), pb.HealthResponse).checked_at_unix_us)
    # The hub gives the newest first, which remains the order among equals.
    result = sorted(map(alert_plain, found.alerts), key=lambda one: SEVERITIES.index(one["severity"]))
    asked = filters(family, type_, severity)
    emit(output, result, lambda: active_table(result, checked=checked, filters=asked, now=time.time()))


@app.command()
def history(
    *,
    family: FamilyOption = "",
    type_: TypeOption = "",
    severity: SeverityOption = "",
    since: SinceOption = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 50,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """List all alerts, also resolved ones, newest first."""
    from services.cli.alerts_shown import alert_plain, past_table
    from turnout.v1 import monitoring_pb2 as pb

    request = _request(family, type_, severity)
    request.history, request.since_unix_us, request.page_size = True, since_us(since), limit
    with open_monitoring(hub, config) as server:
        found = server.ask(request, pb.ListAlertsResponse)
    result = [alert_plain(one) for one in found.alerts]
    asked = filters(family, type_, severity, since)
    emit(output, result, lambda: past_table(result, filters=asked, limit=limit, now=time.time()))


@app.command()
def show(
    id_: IdArgument,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show one alert, what happened to it, and which handlers know of it."""
    from services.cli.alerts_shown import alert_plain, event_plain, history_table
    from services.cli.monitoring import instant
    from turnout.v1 import monitoring_pb2 as pb

    with open_monitoring(hub, config) as server:
        found = server.ask(pb.GetAlertRequest(id=id_), pb.GetAlertResponse)
    result = {
        "alert": alert_plain(found.alert),
        "events": [event_plain(one) for one in found.events],
        "told": [{"handler": t.handler, "notice": t.notice, "at": instant(t.at_unix_us)} for t in found.told],
    }
    emit(output, result, lambda: history_table(result, time.time()))


@app.command()
def stats(
    *,
    family: FamilyOption = "",
    since: SinceOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Count alerts by type and severity, and show how the handlers do."""
    from services.cli.alerts_shown import statistics_plain, statistics_table
    from turnout.v1 import monitoring_pb2 as pb

    request = pb.AlertStatisticsRequest(family=family, since_unix_us=since_us(since))
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
    from services.cli.alerts_shown import alert_plain, alerts_table
    from turnout.v1 import monitoring_pb2 as pb

    with open_monitoring(hub, config) as server:
        found = server.ask(pb.ResolveAlertRequest(id=id_, why=why), pb.ResolveAlertResponse)
    result = alert_plain(found.alert)
    emit(output, result, lambda: alerts_table([result], time.time()))


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
    from services.cli.alerts_shown import silence_plain, silences_table
    from turnout.v1 import monitoring_pb2 as pb

    ends = int(time.time() * 1e6) + seconds("--for", lasts) * 1_000_000
    request = pb.SilenceAlertsRequest(matchers=[matcher(one) for one in matchers], ends_at_unix_us=ends, why=why)
    with open_monitoring(hub, config) as server:
        found = server.ask(request, pb.SilenceAlertsResponse)
    result = {**silence_plain(found.silence), "matched": found.matched}
    emit(output, result, lambda: silences_table([result], time.time()))


@app.command()
def unsilence(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of the silence.")],
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """End a silence now."""
    from services.cli.alerts_shown import silence_plain, silences_table
    from turnout.v1 import monitoring_pb2 as pb

    with open_monitoring(hub, config) as server:
        found = server.ask(pb.ExpireSilenceRequest(id=id_), pb.ExpireSilenceResponse)
    result = silence_plain(found.silence)
    emit(output, result, lambda: silences_table([result], time.time()))


@app.command()
def silences(
    *,
    ended: Annotated[bool, typer.Option("--ended", help="Also those that have ended.")] = False,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """List silences, newest first."""
    from services.cli.alerts_shown import silence_plain, silences_table
    from turnout.v1 import monitoring_pb2 as pb

    with open_monitoring(hub, config) as server:
        found = server.ask(pb.ListSilencesRequest(ended=ended), pb.ListSilencesResponse)
    result = [silence_plain(one) for one in found.silences]
    emit(output, result, lambda: silences_table(result, time.time()))


@app.command()
def watch(
    *,
    family: FamilyOption = "",
    severity: SeverityOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Follow alerts: one JSON object a line, first the active ones, then every change. Ends with Ctrl-C."""
    from services.cli.alerts_shown import alert_plain, event_plain
    from turnout.v1 import monitoring_pb2 as pb

    request = pb.WatchAlertsRequest(family=family, min_severity=severity_of(severity))
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
    print(in_json(json.dumps(result, ensure_ascii=False)), flush=True)


def _request(family: str, type_: str, severity: str) -> pb.ListAlertsRequest:
    from turnout.v1 import monitoring_pb2 as pb

    types = [type_of(type_)] if type_ else []
    return pb.ListAlertsRequest(family=family, types=types, min_severity=severity_of(severity), page_size=MOST)
