"""`turnout report`: quality, distributions and drift of a family, as tables, JSON, or one HTML page with plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.durations import seconds
from services.cli.monitoring_options import open_monitoring
from services.cli.output import Format, FormatOption, emit, messages
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption

if TYPE_CHECKING:
    from turnout.v1 import monitoring_pb2 as pb


def report(
    family: Annotated[str, typer.Argument(help="Prediction problem.")],
    *,
    window: Annotated[
        str, typer.Option("--window", help="Time that is reported on, such as 1h, 7d; at most 365d.")
    ] = "1d",
    arm: Annotated[str, typer.Option("--arm", help="Only this arm.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Only decisions of this tenant.")] = "",
    html: Annotated[Path | None, typer.Option("--html", help="Write one self-contained page to this file.")] = None,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Report on a family: predictions against outcomes, distributions, drift; with --html as a page with plots."""
    from services.cli.report_shown import report_table
    from turnout.v1 import monitoring_pb2 as pb

    length = seconds("--window", window)
    with open_monitoring(hub, config) as server:
        asked: dict[str, Any] = {"family": family, "arm": arm, "tenant": tenant, "window_seconds": length}
        validation = server.ask(pb.ValidationRequest(**asked), pb.ValidationResponse)
        shapes = server.ask(pb.DistributionRequest(**asked), pb.DistributionResponse)
        drift = server.ask(pb.DriftRequest(family=family), pb.DriftResponse)
        health = server.ask(pb.HealthRequest(family=family), pb.HealthResponse)
    result = plain(asked, window, validation, shapes, drift, health)
    if html is None:
        emit(output, result, lambda: report_table(result))
        return
    from services.cli.report_page import page

    html.write_text(page(result), encoding="utf-8")
    if output is not Format.TABLE:
        emit(output, result, lambda: report_table(result))
    messages().print(f"{html} written", markup=False)


def plain(  # noqa: PLR0917 - the answers of four calls
    asked: dict[str, Any],
    window: str,
    validation: pb.ValidationResponse,
    shapes: pb.DistributionResponse,
    drift: pb.DriftResponse,
    health: pb.HealthResponse,
) -> dict[str, Any]:
    """Gives a report as plain values; `asked` are family, arm, tenant and window_seconds, `window` as it was typed."""
    from services.cli import drift as drift_command
    from services.cli import health as health_command
    from services.cli.monitoring import instant
    from services.cli.report_shadows import plain_shadow
    from turnout.v1 import monitoring_pb2 as pb

    until_us = validation.computed_at_unix_us
    decisions = {(one.arm, one.variant): one.window.count for one in shapes.variants}
    variants = [_variant(one, decisions.get((one.arm, one.variant), 0), until_us) for one in validation.variants]
    numbers = any("mae" in one["measures"] for one in variants)
    return {
        **asked,
        "window": window,
        "since": instant(until_us - asked["window_seconds"] * 1_000_000),
        "until": instant(until_us),
        "main_measure": "Mean absolute error" if numbers else "Accuracy",
        "health": health_command.plain(health, pb.LedgerStatusResponse(), ""),
        "variants": variants,
        "shadows": [plain_shadow(one) for one in validation.shadows],
        "distributions": [_shape(one) for one in shapes.variants],
        "findings": drift_command.plain(drift)["findings"],
    }


def _variant(one: pb.VariantQuality, decisions: int, until_us: int) -> dict[str, Any]:
    from services.cli.monitoring import measures, word
    from turnout.v1 import monitoring_pb2 as pb

    estimate = None
    if one.HasField("estimate"):
        guess = one.estimate
        estimate = {
            "valid": guess.valid,
            "reason": guess.reason,
            "measures": measures(guess.measures),
            "decisions": guess.decisions,
        }
    return {
        "arm": one.arm,
        "variant": one.variant,
        "level": word(pb.QualityLevel, one.level),
        "decisions": decisions,
        "outcomes": one.window.count,
        "measures": measures(one.measures),
        "estimate": estimate,
        "calibration": [{"predicted": b.predicted, "observed": b.observed, "count": b.count} for b in one.calibration],
        "steps": [
            {
                "at": step.window.start_unix_us / 1e6,
                "seconds": (min(step.window.end_unix_us, until_us) - step.window.start_unix_us) / 1e6,
                "decisions": step.window.count,
                "outcomes": step.outcomes,
                "quality": step.quality if step.HasField("quality") else None,
                "latency_p95_ms": step.latency_p95_ms,
            }
            for step in one.steps
        ],
    }


def _shape(one: pb.VariantDistribution) -> dict[str, Any]:
    def distribution(shape: pb.Distribution) -> dict[str, Any]:
        return {
            "count": shape.count,
            "mean": shape.mean if shape.HasField("mean") else None,
            "standard_deviation": shape.standard_deviation if shape.HasField("standard_deviation") else None,
            "quantiles": {f"{q.rank:g}": q.value for q in shape.quantiles},
            "bins": [{"lower": b.lower, "upper": b.upper, "count": b.count} for b in shape.bins],
        }

    return {
        "arm": one.arm,
        "variant": one.variant,
        "decisions": one.window.count,
        "values": distribution(one.values),
        "confidences": distribution(one.confidences),
        "latencies_ms": distribution(one.latencies_ms),
        "levels": dict(sorted(one.levels.items())),
        "fallback_reasons": dict(sorted(one.fallback_reasons.items())),
    }
