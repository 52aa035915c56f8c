"""What a demo run says at its end: one object for programs, a table and a summary for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.cli.demo.plan import Events, Plan, Verification
from services.cli.demo.tally import Tally
from services.cli.output import number
from services.cli.preparing import evaluation_table, evaluations
from services.training.pipeline import TrainedVariant


def as_dict(
    plan: Plan, trained: list[TrainedVariant], tally: Tally, events: Events, found: Verification, *, seconds: float
) -> dict[str, Any]:
    """Gives the run as plain values; `seconds` is how long traffic flowed."""
    qualities = evaluations(trained)
    for quality in qualities.values():
        quality.pop("reliability", None)
    return {
        "predictions": tally.predictions,
        "errors": tally.errors,
        "answered_in_deadline": tally.in_deadline,
        "fallbacks": dict(sorted(tally.fallbacks.items())),
        "outcomes_recorded": tally.outcomes_recorded,
        "outcomes_joined": found.outcomes_joined,
        "arms": found.arms,
        "split_changes": len(events.split_changes),
        "seed": plan.seed,
        "seconds": round(seconds, 3),
        "source": str(plan.data or plan.city or "synthetic"),
        "decisions_in_ledger": found.decisions,
        "split_history": [asdict(change) for change in events.split_changes],
        "killed_model_server": events.killed,
        "recovered_seconds": events.recovered_seconds,
        "replay_identical": found.replay_identical,
        "variants": qualities,
        "failures": list(found.failures),
    }


def table(result: dict[str, Any], trained: list[TrainedVariant]) -> RenderableType:
    """Shows the run."""
    arms = Table(title="Arms", title_justify="left")
    arms.add_column("arm", no_wrap=True)
    for name in ("assigned", "served", "fallbacks", "outcomes", "success rate", "p50 ms", "p99 ms"):
        arms.add_column(name, justify="right")
    for name, arm in result["arms"].items():
        rate = "–" if arm["outcome_rate"] is None else f"{arm['outcome_rate']:.1%}"
        fallbacks = str(sum(arm["fallbacks"].values()))
        times = number(arm["p50_ms"], 1), number(arm["p99_ms"], 1)
        arms.add_row(name, str(arm["assigned"]), str(arm["served"]), fallbacks, str(arm["outcomes"]), rate, *times)
    return Group(evaluation_table(trained), arms, _summary(result))


def _summary(result: dict[str, Any]) -> RenderableType:
    facts = Table(show_header=False, box=None)
    predictions = result["predictions"]
    rate = predictions / result["seconds"] if result["seconds"] else 0.0
    facts.add_row("predictions", f"{predictions} in {result['seconds']:.1f} s ({rate:.0f} a second)")
    facts.add_row("failed calls", str(result["errors"]))
    facts.add_row("inside the deadline", str(result["answered_in_deadline"]))
    reasons = ", ".join(f"{count} {reason}" for reason, count in result["fallbacks"].items())
    facts.add_row("answered by fallback", reasons or "none")
    for change in result["split_history"]:
        facts.add_row(
            "split changed",
            f"{change['before']} → {change['after']} at {change['at']:.1f} s, "
            f"answers followed after {change['applied_seconds'] * 1000:.0f} ms",
        )
    recovered = result["recovered_seconds"]
    back = "did not come back" if recovered is None else f"answered again after {recovered:.1f} s"
    facts.add_row("killed", f"{result['killed_model_server']}, {back}")
    facts.add_row("decisions in the ledger", f"{result['decisions_in_ledger']}, each once")
    facts.add_row("outcomes", f"{result['outcomes_recorded']} reported, {result['outcomes_joined']} joined")
    facts.add_row("replay", "identical" if result["replay_identical"] else "DIFFERENT")
    if result["failures"]:
        return Group(facts, Text("FAILED: " + "; ".join(result["failures"]), style="bold red"))
    return Group(facts, Text("All of it verified.", style="bold green"))
