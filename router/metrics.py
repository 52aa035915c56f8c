"""The router's Prometheus metrics. Labels come from configuration only, so their number is bounded."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from router.accounts import JournalStatus
from router.resilience.reasons import Fallback

_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 5.0)


class AttemptKind(StrEnum):
    """Why a variant was asked beyond the first attempt."""

    RETRY = "retry"
    HEDGE = "hedge"
    NEXT_ARM = "next_arm"


class RouterMetrics:
    """Counters of one router, in a registry that is an argument."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._predictions = Counter(
            "turnout_predictions",
            "Answered predictions by experiment, assigned arm, served variant and reason of the fallback.",
            ("family", "experiment", "arm", "served_variant", "fallback"),
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
            "turnout_refused_calls",
            "Calls that ended with an error, by service and gRPC status code; calls inside streams and lists as well.",
            ("service", "code"),
            registry=registry,
        )
        self._room = Gauge(
            "turnout_admission_room", "Calls of ordinary families that may be under way.", registry=registry
        )
        self._under_way = Gauge(
            "turnout_admission_under_way", "Calls of ordinary families that are under way.", registry=registry
        )
        self._failed_attempts = Counter(
            "turnout_failed_attempts",
            "Requests to a variant that gave no usable answer, by reason.",
            ("family", "variant", "reason"),
            registry=registry,
        )
        self._extra_attempts = Counter(
            "turnout_extra_attempts",
            "Requests beyond a call's first one: retry, hedge, next_arm.",
            ("family", "variant", "kind"),
            registry=registry,
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
        self._counted: dict[tuple[str, tuple[str, str, str, int]], Counter] = {}
        self._timed: dict[str, Histogram] = {}

    def follow_admission(self, room: Callable[[], float], under_way: Callable[[], float]) -> None:
        """Shows how many ordinary calls may be under way, and how many are."""
        self._room.set_function(room)
        self._under_way.set_function(under_way)

    def follow_journal(self, status: Callable[[], JournalStatus]) -> None:
        """Shows the journal's numbers as they are whenever somebody looks."""
        for state in ("started", "stored", "pending", "set_aside"):
            self._records.labels(state).set_function(partial(_number, status, state))
        self._journal_bytes.set_function(lambda: status().disk_bytes)

    def predictions(self, family: str, labels: tuple[str, str, str, int], count: int) -> None:
        """Counts answers that share all labels: experiment, assigned arm, served variant, reason of the fallback."""
        key = (family, labels)
        child = self._counted.get(key)
        if child is None:
            *names, fallback = labels
            child = self._counted[key] = self._predictions.labels(family, *names, Fallback(fallback).name.lower())
        child.inc(count)

    def forget(self, experiments: set[tuple[str, str]]) -> None:
        """Drops what was counted for experiments, by family and name, that are gone."""
        for key in [key for key in self._counted if (key[0], key[1][0]) in experiments]:
            family, (*names, fallback) = key
            self._predictions.remove(family, *names, Fallback(fallback).name.lower())
            del self._counted[key]

    def latency(self, family: str, seconds: float) -> None:
        """Notes the time that an answer took."""
        child = self._timed.get(family)
        if child is None:
            child = self._timed[family] = self._latency.labels(family)
        child.observe(seconds)

    def refused(self, service: str, code: int) -> None:
        """Counts a call that ended with an error; `service` is its full name."""
        self._refused.labels(service, str(code)).inc()

    def failed_attempt(self, family: str, variant: str, reason: Fallback) -> None:
        """Counts a request to a variant that gave no usable answer."""
        self._failed_attempts.labels(family, variant, reason.name.lower()).inc()

    def extra_attempt(self, family: str, variant: str, kind: AttemptKind) -> None:
        """Counts a request beyond a call's first one."""
        self._extra_attempts.labels(family, variant, kind.value).inc()

    def outcome(self, family: str) -> None:
        """Counts an outcome."""
        self._outcomes.labels(family).inc()

    def configuration(self, *, applied: bool) -> None:
        """Counts a reading of the configuration."""
        self._configuration.labels("applied" if applied else "refused").inc()


def _number(status: Callable[[], JournalStatus], state: str) -> float:
    return float(getattr(status(), state))
