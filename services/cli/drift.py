"""`turnout drift`: what the last check cycle found."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli.monitoring_options import check_watched, open_monitoring
from services.cli.output import Format, FormatOption, emit
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption

if TYPE_CHECKING:
    from turnout.v1 import monitoring_pb2 as pb

FOUND: Final = 1


class Kind(StrEnum):
    """What may drift."""

    PREDICTION = "prediction"
    CONFIDENCE = "confidence"
    FEATURE = "feature"
    JOINT = "joint"
    DATA_QUALITY = "data_quality"
    PERFORMANCE = "performance"
    CONCEPT = "concept"


class VerdictName(StrEnum):
    """What a test found."""

    DRIFT = "drift"
    STABLE = "stable"
    NOT_ENOUGH_DATA = "not_enough_data"


def drift(
    family: Annotated[str, typer.Argument(help="Only this family.")] = "",
    *,
    kind: Annotated[Kind | None, typer.Option("--kind", help="Only this kind.")] = None,
    verdict: Annotated[VerdictName | None, typer.Option("--verdict", help="Only findings with this verdict.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also show each test that did not find drift.")] = False,
    fail: Annotated[bool, typer.Option("--fail", help="Exit code 1 when anything drifts.")] = False,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what drifts, with effect, limit and p-value; -o json has every test with its windows, drift first."""
    from services.cli.drift_shown import drift_table
    from turnout.v1 import monitoring_pb2 as pb

    request = pb.DriftRequest(family=family)
    if kind is not None:
        request.kind = pb.DriftKind.Value(f"DRIFT_KIND_{kind.name}")
    if verdict is not None:
        request.verdict = pb.DriftVerdict.Value(f"DRIFT_VERDICT_{verdict.name}")
    with open_monitoring(hub, config) as server:
        found = server.ask(request, pb.DriftResponse)
        if family and not found.findings:
            check_watched(server, family)
    result = plain(found)
    everything = all_ or verdict is not None
    picked = f" of {kind.value.replace('_', ' ')}" if kind else ""
    picked += f" with the verdict {verdict.value.replace('_', ' ')}" if verdict else ""
    emit(output, result, lambda: drift_table(result, time.time(), everything=everything, picked=picked))
    if fail and any(one["verdict"] == "drift" for one in result["findings"]):
        raise typer.Exit(FOUND)


def plain(found: pb.DriftResponse) -> dict[str, Any]:
    """Gives findings as plain values."""
    from services.cli.monitoring import instant, word
    from turnout.v1 import monitoring_pb2 as pb

    def window(one: pb.Window) -> dict[str, Any]:
        return {"start": instant(one.start_unix_us), "end": instant(one.end_unix_us), "decisions": one.count}

    return {
        "checked_at": instant(found.checked_at_unix_us),
        "findings": [
            {
                "family": one.family,
                "kind": word(pb.DriftKind, one.kind),
                "arm": one.arm,
                "variant": one.variant,
                "feature": one.feature,
                "test": one.test,
                "verdict": word(pb.DriftVerdict, one.verdict),
                "effect": one.effect,
                "effect_name": one.effect_name,
                "effect_limit": one.effect_limit,
                "p_value": one.p_value if one.HasField("p_value") else None,
                "reference": window(one.reference),
                "current": window(one.current),
                "summary": one.summary,
            }
            for one in found.findings
        ],
    }
