"""Checks a run against the ledger: everything there, everything once, every arm chosen again identically."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from router.replay import replay
from services.cli.demo.plan import FAMILY, LEDGER_SECONDS, Verification
from services.cli.demo.tally import Tally
from services.cli.hub import Hub
from services.runtime.fallback_words import count_by_word
from turnout.v1 import ledger_pb2

_POLL_SECONDS: Final = 0.1


def verify(hub: Hub, tally: Tally) -> Verification:
    """Waits until the ledger holds the run, within a limit, then checks it. Blocks: call it in a thread."""
    summary = _complete(hub, tally)
    seen: Counter[str] = Counter()

    def decisions() -> Iterator[ledger_pb2.Decision]:
        for entry in hub.decisions(ledger_pb2.ListDecisionsRequest(family=FAMILY)):
            seen[entry.decision.decision_id] += 1
            yield entry.decision

    report = replay(decisions(), hub.snapshots(FAMILY))
    return Verification(
        arms={arm.arm: _arm(arm) for arm in summary.arms},
        decisions=summary.decisions,
        outcomes_joined=summary.outcomes_joined,
        replay_identical=report.clean and report.decisions > 0,
        failures=tuple(_failures(tally, summary, seen, replayed=report.clean)),
    )


def _complete(hub: Hub, tally: Tally) -> ledger_pb2.SummarizeArmsResponse:
    until = time.monotonic() + LEDGER_SECONDS
    while True:
        summary = hub.summary(FAMILY)
        there = summary.decisions >= len(tally.by_router) and summary.outcomes_joined >= tally.outcomes_recorded
        if there or time.monotonic() > until:
            return summary
        time.sleep(_POLL_SECONDS)


def _failures(
    tally: Tally, summary: ledger_pb2.SummarizeArmsResponse, seen: Counter[str], *, replayed: bool
) -> Iterator[str]:
    if not tally.predictions:
        yield "no prediction was asked for"
    if tally.errors:
        yield f"{tally.errors} calls failed; the first one: {tally.first_error}"
    missing = len(tally.by_router - seen.keys())
    if missing:
        yield f"{missing} answered decisions are not in the ledger after {LEDGER_SECONDS:g} s"
    unknown = len(seen.keys() - tally.by_router - tally.local)
    if unknown > tally.abandoned:
        yield f"the ledger holds {unknown} decisions that nobody asked for"
    twice = sum(count > 1 for count in seen.values())
    if twice:
        yield f"the ledger holds {twice} decisions more than once"
    if summary.decisions != seen.total():
        yield f"the ledger counts {summary.decisions} decisions and lists {seen.total()}"
    if summary.outcomes_joined != tally.outcomes_recorded:
        yield f"{tally.outcomes_recorded} outcomes were recorded and {summary.outcomes_joined} joined their decisions"
    if summary.set_aside:
        yield f"the ledger set {summary.set_aside} records aside"
    if not replayed:
        yield "a replay chooses other arms than those that were recorded"


def _arm(arm: ledger_pb2.ArmSummary) -> dict[str, Any]:
    return {
        "assigned": arm.assigned,
        "served": arm.served,
        "fallbacks": count_by_word((one.reason, one.count) for one in arm.fallbacks),
        "outcomes": arm.outcomes,
        "outcome_rate": arm.outcome_mean if arm.HasField("outcome_mean") else None,
        "p50_ms": arm.p50_ms if arm.HasField("p50_ms") else None,
        "p99_ms": arm.p99_ms if arm.HasField("p99_ms") else None,
    }
