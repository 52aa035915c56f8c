"""`turnout split status`, `decide` and `strategies`: what routers apply, and what they would choose."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.output import Format, FormatOption, emit, results
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption, connect, pairs
from services.runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from turnout.v1 import experiment_pb2

_PAUSE_SECONDS = 0.5


def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew twice a second, until Ctrl-C.")] = False,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show every router: the version that it applies, how long that took, and what it refused."""
    with connect(hub, config) as server:
        if not watch:
            result = plain_status(server.status())
            emit(output, result, lambda: _table(result))
            return
        if output is not Format.TABLE:
            raise InvalidArgument("watch", "--watch goes with -o table")
        from rich.live import Live

        with Live(console=results(), auto_refresh=False) as live:
            while True:
                live.update(_table(plain_status(server.status())), refresh=True)
                time.sleep(_PAUSE_SECONDS)


def decide(
    family: Annotated[str, typer.Argument(help="Prediction problem, for example dispatch.")],
    *,
    unit: Annotated[str, typer.Option("--unit", help="The unit.")] = "",
    decision: Annotated[str, typer.Option("--decision", help="The decision's id; needed without a unit.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Tenant that asks.")] = "",
    region: Annotated[str, typer.Option("--region", help="Region of the switchback block.")] = "",
    at: Annotated[str, typer.Option("--at", help="Instant in UTC, such as 2026-01-31T08:00; else now.")] = "",
    sequence: Annotated[int, typer.Option("--sequence", min=0, help="round_robin: position in the rotation.")] = 0,
    attribute: Annotated[list[str] | None, typer.Option("--attribute", help="Metadata: NAME=VALUE; repeat it.")] = None,
    features: Annotated[str, typer.Option("--features", help="Features as a JSON object.")] = "{}",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Tell which arm a unit would get, and why; changes and records nothing."""
    from turnout.v1 import experiment_pb2

    request = experiment_pb2.DecideRequest(
        family=family,
        unit_id=unit,
        decision_id=decision,
        tenant=tenant,
        region=region,
        at_unix_us=_instant(at),
        sequence=sequence,
        attributes=pairs("--attribute", attribute or []),
    )
    _put_features(request, features)
    with connect(hub, config) as server:
        reply = server.decide(request)
    result = _plain_decision(reply)
    emit(output, result, lambda: _facts(result))


def strategies(
    hub: HubOption = None, config: ConfigOption = DEFAULT_CONFIG, output: FormatOption = Format.TABLE
) -> None:
    """List the strategies with their parameters."""
    with connect(hub, config) as server:
        found = server.strategies()
    result = [{"name": one.name, "summary": one.summary, "parameters": list(one.parameters)} for one in found]

    def table() -> Any:
        from rich.table import Table

        shown = Table(title="strategies", title_justify="left", show_lines=True)
        for column in ("strategy", "what it does", "parameters"):
            shown.add_column(column)
        for one in found:
            shown.add_row(one.name, one.summary, "\n".join(one.parameters))
        return shown

    emit(output, result, table)


def plain_status(found: experiment_pb2.GetStatusResponse) -> dict[str, Any]:
    """Gives the status as plain values, with the one line that sums it up."""
    routers = [
        {
            "router": one.router,
            "connected": one.connected,
            "applied_version": one.applied_version,
            "lag_ms": one.lag_ms if one.HasField("lag_ms") else None,
            "refusal": one.refusal,
            "heard_at": datetime.fromtimestamp(one.heard_at_unix_us / 1e6, UTC).isoformat(timespec="milliseconds"),
        }
        for one in found.routers
    ]
    connected = [one for one in found.routers if one.connected]
    applied = [one for one in connected if one.applied_version == found.version]
    lags = [one.lag_ms for one in applied if one.HasField("lag_ms")]
    slowest = f", {max(lags):.0f} ms" if lags else ""
    summary = f"version {found.version}: {len(applied)} of {len(connected)} connected routers{slowest}"
    return {"version": found.version, "summary": summary, "routers": routers}


def _table(result: dict[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=result["summary"], title_justify="left")
    table.add_column("router")
    table.add_column("connected")
    table.add_column("version", justify="right")
    table.add_column("lag", justify="right")
    table.add_column("last heard of (UTC)")
    table.add_column("refusal")
    for one in result["routers"]:
        lag = "–" if one["lag_ms"] is None else f"{one['lag_ms']:.1f} ms"
        heard = one["heard_at"].partition(".")[0].replace("T", " ")
        yes = "yes" if one["connected"] else "no"
        table.add_row(one["router"], yes, str(one["applied_version"]), lag, heard, escape(one["refusal"]))
    return table


def _plain_decision(reply: experiment_pb2.DecideResponse) -> dict[str, Any]:
    from turnout.v1 import prediction_pb2

    chosen = reply.assignment
    reason = prediction_pb2.AssignmentReason.Name(chosen.reason).removeprefix("ASSIGNMENT_REASON_").lower()
    result: dict[str, Any] = {
        "experiment": chosen.experiment,
        "arm": chosen.arm,
        "reason": reason,
        "propensity": chosen.propensity,
        "revision": chosen.revision,
        "burn_in": chosen.burn_in,
        "passed_over": list(reply.passed_over),
    }
    return result


def _facts(result: dict[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column()
    table.add_column()
    for name, value in result.items():
        text = "\n".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), escape(text))
    return table


def _instant(text: str) -> int:
    if not text:
        return 0
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidArgument("at", f"--at must be like 2026-01-31T08:00, in UTC, not {text[:40]!r}") from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e6)


def _put_features(request: experiment_pb2.DecideRequest, text: str) -> None:
    try:
        features = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("features", "--features is not valid JSON") from error
    if not isinstance(features, dict):
        raise InvalidArgument("features", "--features must be a JSON object")
    for name, value in features.items():
        match value:
            case bool():
                request.flags[name] = value
            case int() | float():
                request.numbers[name] = value
            case str():
                request.categories[name] = value
            case _:
                raise InvalidArgument("features", f"--features: {name[:64]} must be a number, a text or a bool")
