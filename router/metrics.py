"""The router's Prometheus metrics. Labels come from configuration only, so their number is bounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from router.accounts import JournalStatus
from router.fallback import Fallback

_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 5.0)


class RouterMetrics:
    """Counters of one router, in a registry that is an argument."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._predictions = Counter(
            "turnout_predictions",
            "Answered predictions by assigned arm, served variant and reason of the fallback.",
            ("family", "arm", "served_variant", "fallback"),
            registry=registry,
        )
        self._latency = Histogram(
            "turnout_prediction_duration_seconds",
            "Time from a call's arrival to its answer.",
            ("family",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._refused = Counter(
            "turnout_refused_calls", "Calls that were refused, by gRPC status code.", ("code",), registry=registry
        )
        self._outcomes = Counter("turnout_outcomes", "Outcomes that were taken.", ("family",), registry=registry)
        self._configuration = Counter(
            "turnout_configuration_loads", "Readings of turnout.yaml, by result.", ("result",), registry=registry
        )
        self.unshipped = Gauge(
            "turnout_journal_unshipped_bytes", "Journal bytes that the ledger has not confirmed yet.", registry=registry
        )
        self.held = Gauge(
            "turnout_journal_held_records", "Records held in memory because the disk refuses them.", registry=registry
        )
        self.lost = Gauge(
            "turnout_journal_lost_records",
            "Records whose content neither disk nor memory kept.",
            registry=registry,
        )
        self._records = Gauge(
            "turnout_journal_records",
            "Records of the journal by what became of them: started = stored + pending + set_aside.",
            ("state",),
            registry=registry,
        )
        self._journal_bytes = Gauge("turnout_journal_bytes", "Size of the journal on disk.", registry=registry)
        self._counted: dict[tuple[str, str, str, int], Counter] = {}
        self._timed: dict[str, Histogram] = {}

    def follow_journal(self, status: Callable[[], JournalStatus]) -> None:
        """Shows the journal's numbers as they are whenever somebody looks."""
        for state in ("started", "stored", "pending", "set_aside"):
            self._records.labels(state).set_function(partial(_number, status, state))
        self._journal_bytes.set_function(lambda: status().disk_bytes)

    def predictions(self, family: str, arm: str, served_variant: str, fallback: int, count: int) -> None:
        """Counts answers that share all labels."""
        key = (family, arm, served_variant, fallback)
        child = self._counted.get(key)
        if child is None:
            name = Fallback(fallback).name.lower()
            child = self._counted[key] = self._predictions.labels(family, arm, served_variant, name)
        child.inc(count)

    def latency(self, family: str, seconds: float) -> None:
        """Notes the time that an answer took."""
        child = self._timed.get(family)
        if child is None:
            child = self._timed[family] = self._latency.labels(family)
        child.observe(seconds)

    def refused(self, code: int) -> None:
        """Counts a refused call."""
        self._refused.labels(str(code)).inc()

    def outcome(self, family: str) -> None:
        """Counts an outcome."""
        self._outcomes.labels(family).inc()

    def configuration(self, *, applied: bool) -> None:
        """Counts a reading of the configuration."""
        self._configuration.labels("applied" if applied else "refused").inc()


def _number(status: Callable[[], JournalStatus], state: str) -> float:
    return float(getattr(status(), state))
