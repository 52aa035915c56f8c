"""`turnout replay`: chooses the arm of recorded decisions again and compares."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.durations import seconds
from services.cli.output import Format, FormatOption, emit, messages
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption, connect
from services.runtime.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from router.replay import ReplayReport
    from services.cli.hub import Hub
    from services.cli.progress import Step
    from turnout.v1 import ledger_pb2

_SHOWN = 20


def replay(
    family: Annotated[str, typer.Argument(help="Only this prediction problem; else all.")] = "",
    *,
    decision: Annotated[str, typer.Option("--decision", help="Only this decision.")] = "",
    since: Annotated[str, typer.Option("--since", help="Only newer ones: 2h, 1d, or 2026-01-31T08:00.")] = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Choose every recorded decision's arm again; exit code 1 when anything comes out differently."""
    from services.cli.progress import Steps
    from turnout.v1 import ledger_pb2

    request = ledger_pb2.ListDecisionsRequest(
        family=family, decision_id=decision, since_unix_us=_instant(since) if since else 0
    )
    with connect(hub, config) as server, Steps(messages()) as steps, steps.step("replaying decisions") as step:
        report = replay_decisions(server, request, step)
        step.note = f"{report.decisions} decisions"
    if decision and not report.decisions:
        raise NotFound("decision", f"the ledger has no decision {decision!r} (yet)")
    result = as_dict(report)
    emit(output, result, lambda: _table(result))
    if not report.clean:
        raise typer.Exit(1)


def replay_decisions(hub: Hub, request: ledger_pb2.ListDecisionsRequest, step: Step) -> ReplayReport:
    """Replays what the ledger lists."""
    from router.replay import replay as replay_entries

    snapshots = hub.snapshots(request.family)

    def decisions() -> Iterator[ledger_pb2.Decision]:
        for count, entry in enumerate(hub.decisions(request), start=1):
            if count % 1000 == 0:
                step.doing(f"{count} so far")
            yield entry.decision

    return replay_entries(decisions(), snapshots)


def as_dict(report: ReplayReport) -> dict[str, Any]:
    """Gives plain values."""
    from dataclasses import asdict

    return {
        "identical": report.clean,
        "decisions": report.decisions,
        "replayed_identically": report.identical,
        "differing": report.differing,
        "without_experiment": report.without_experiment,
        "not_replayed": report.not_replayed,
        "missing_snapshots": {f"{digest:016x}": count for digest, count in report.missing_snapshots.items()},
        "other_schema": report.other_schema,
        "differences": [asdict(difference) for difference in report.differences],
    }


def _instant(text: str) -> int:
    """Gives microseconds since 1970; a time without a zone is UTC."""
    if text[:1].isdigit() and text[-1:] in "smhd" and text[:-1].isdigit():
        return time.time_ns() // 1000 - seconds("--since", text) * 1_000_000
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidArgument(
            "since",
            f"--since must be a length of time such as 2h or a moment such as 2026-01-31T08:00, not {text[:40]!r}",
        ) from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e6)


def _table(result: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table

    facts = Table(show_header=False, box=None)
    for name in ("decisions", "replayed_identically", "differing", "without_experiment", "not_replayed"):
        facts.add_row(name.replace("_", " "), str(result[name]))
    if not result["differences"]:
        return facts
    table = Table(
        "decision", "field", "recorded", "replayed", title=f"First {_SHOWN} differences", title_justify="left"
    )
    for one in result["differences"][:_SHOWN]:
        table.add_row(one["decision_id"], one["field"], one["recorded"], one["replayed"])
    return Group(facts, table)
