"""What the ledger tells Prometheus."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from monitoring.ledger.appended import Appended
from monitoring.ledger.upkeep import Step

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LedgerMetrics:
    """Counters of one process, on the registry that its composition root gives."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._decisions = Counter("ledger_decisions", "Decisions stored.", registry=registry)
        self._shadows = Counter("ledger_shadow_answers", "Answers of shadows stored.", registry=registry)
        self._snapshots = Counter("ledger_snapshots", "Experiment snapshots stored.", registry=registry)
        outcomes = Counter(
            "ledger_outcomes",
            "Outcomes by what became of them: joined to a decision, waiting for one, or a duplicate or correction.",
            ["state"],
            registry=registry,
        )
        self._joined = outcomes.labels("joined")
        self._waiting = outcomes.labels("waiting")
        self._duplicate = outcomes.labels("duplicate")
        repeated = Counter("ledger_duplicates", "Records that were already there.", ["record"], registry=registry)
        self._repeated = {
            kind: repeated.labels(kind) for kind in ("decision", "snapshot", "shadow_answer", "set_aside")
        }
        self._set_aside = Counter("ledger_set_aside", "Records that could not be stored.", registry=registry)
        self._append = Histogram(
            "ledger_append_seconds", "Time to store a batch durably.", buckets=_BUCKETS, registry=registry
        )

        self._rolled = Counter(
            "ledger_windows_made", "Windows of hours and days that were added up.", registry=registry
        )
        self._dropped = Counter(
            "ledger_windows_dropped", "Windows past their time that were removed.", registry=registry
        )
        self._pruned = Counter("ledger_decisions_pruned", "Decisions that retention removed.", registry=registry)

    def stepped(self, step: Step) -> None:
        """Counts a step of upkeep."""
        self._rolled.inc(step.rolled)
        self._dropped.inc(step.dropped)
        self._pruned.inc(step.pruned)

    def appended(self, result: Appended, seconds: float) -> None:
        """Counts one stored batch; safe to call from any thread."""
        self._decisions.inc(result.decisions)
        self._snapshots.inc(result.snapshots)
        self._shadows.inc(result.shadows)
        self._joined.inc(result.joined)
        self._waiting.inc(result.waiting)
        self._duplicate.inc(result.duplicates["outcome"])
        self._repeated["decision"].inc(result.duplicates["decision"])
        self._repeated["snapshot"].inc(result.duplicates["snapshot"])
        self._repeated["shadow_answer"].inc(result.duplicates["shadow_answer"])
        self._repeated["set_aside"].inc(result.repeated_aside)
        self._set_aside.inc(result.set_aside)
        self._append.observe(seconds)
