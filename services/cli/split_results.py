"""`turnout split results`: what the arms of a family did, and what its shadows would have done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli.durations import instant
from services.cli.output import Format, FormatOption, emit
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption, connect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

    from turnout.v1 import ledger_pb2

_NOTHING: Final = "–"


def results(
    family: Annotated[str, typer.Argument(help="Prediction problem.")],
    *,
    since: Annotated[
        str, typer.Option("--since", help="Only newer decisions: 2h, 1d, or 2026-01-31T08:00; else all.")
    ] = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what each arm did, and what each shadow would have done, joined with outcomes."""
    begin = instant("--since", since, now_us=time.time_ns() // 1000) if since else 0
    with connect(hub, config) as server:
        found = server.summary(family, begin)
    result = plain(family, found)
    emit(output, result, lambda: _tables(result))


def plain(family: str, found: ledger_pb2.SummarizeArmsResponse) -> dict[str, Any]:
    """Gives the results as plain values; None is what there are no outcomes, or no answers, for."""
    return {
        "family": family,
        "decisions": found.decisions,
        "arms": {one.arm: _arm(one) for one in found.arms},
        "shadows": [_shadow(one) for one in found.shadows],
    }


def _arm(one: ledger_pb2.ArmSummary) -> dict[str, Any]:
    return {
        "assigned": one.assigned,
        "served": one.served,
        "fallbacks": _reasons(one.fallbacks),
        "outcomes": one.outcomes,
        "outcome_mean": _optional(one, "outcome_mean"),
        "mean_absolute_error": _optional(one, "mean_absolute_error"),
        "p50_ms": _optional(one, "p50_ms"),
        "p99_ms": _optional(one, "p99_ms"),
    }


def _shadow(one: ledger_pb2.ShadowSummary) -> dict[str, Any]:
    return {
        "experiment": one.experiment,
        "variant": one.variant,
        "answered": one.answered,
        "failures": _reasons(one.failures),
        "agreement": one.agreed / one.answered if one.answered else None,
        "outcomes": one.outcomes,
        "mean_absolute_error": _optional(one, "mean_absolute_error"),
        "told_mean_absolute_error": _optional(one, "told_mean_absolute_error"),
        "p50_ms": _optional(one, "p50_ms"),
        "p99_ms": _optional(one, "p99_ms"),
    }


def _optional(message: Message, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None


def _reasons(counts: Iterable[ledger_pb2.FallbackCount]) -> dict[str, int]:
    from services.runtime.fallback_words import count_by_word

    return count_by_word((one.reason, one.count) for one in counts)


def _tables(result: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    arms = Table(title=f"{result['family']}: {result['decisions']} decisions, by assigned arm", title_justify="left")
    arms.add_column("arm")
    for column in ("assigned", "served", "fallbacks", "outcomes", "mean outcome", "mean error", "p50 ms", "p99 ms"):
        arms.add_column(column, justify="right")
    for name, one in result["arms"].items():
        counts = (one["assigned"], one["served"], sum(one["fallbacks"].values()), one["outcomes"])
        means = (_number(one["outcome_mean"], 4), _number(one["mean_absolute_error"], 4))
        times = (_number(one["p50_ms"], 2), _number(one["p99_ms"], 2))
        arms.add_row(escape(name) or "none", *map(str, counts), *means, *times)
    if not result["shadows"]:
        return arms
    shadows = Table(title="shadows, beside what callers were told to the same rows", title_justify="left")
    for column in ("experiment", "shadow"):
        shadows.add_column(column)
    for column in ("answered", "failed", "agrees", "outcomes", "mean error", "of the told", "p50 ms", "p99 ms"):
        shadows.add_column(column, justify="right")
    for one in result["shadows"]:
        agreement = _NOTHING if one["agreement"] is None else f"{one['agreement']:.1%}"
        errors = (_number(one["mean_absolute_error"], 4), _number(one["told_mean_absolute_error"], 4))
        shadows.add_row(
            escape(one["experiment"]),
            escape(one["variant"]),
            str(one["answered"]),
            str(sum(one["failures"].values())),
            agreement,
            str(one["outcomes"]),
            *errors,
            _number(one["p50_ms"], 2),
            _number(one["p99_ms"], 2),
        )
    return Group(arms, shadows)


def _number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{value:.{digits}f}"
