"""What the monitor tells Prometheus about models, health and drift. The number of label sets is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

MAX_LABEL_SETS: Final = 2000
"""Per metric; what comes after is counted under `OTHER`."""
OTHER: Final = "other"
_MAX_EXEMPLAR: Final = 128 - len("decision_id")
"""OpenMetrics: the labels of an exemplar have at most 128 characters, names included."""


class MonitoringMetrics:
    """Metrics of one hub, on the registry that its composition root gives.

    `model_name` is "<family>/<variant>"; `prediction` is the family's level, or positive and negative, or number.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._predictions = _Bounded(
            Counter(
                "ml_predictions",
                "Decisions in the ledger, by model and by what was predicted.",
                ["model_name", "prediction"],
                registry=registry,
            )
        )
        self._accuracy = _Bounded(
            Gauge(
                "ml_prediction_accuracy",
                "Share of right predictions among the decisions of the last window that have an outcome.",
                ["model_name"],
                registry=registry,
            )
        )
        self._health = _Bounded(
            Gauge(
                "turnout_health_state",
                "Health as the last check cycle found it: 1 healthy, 2 degraded, 3 unhealthy.",
                ["dimension", "family"],
                registry=registry,
            )
        )
        self._drift = _Bounded(
            Gauge(
                "turnout_drift_effect_ratio",
                "Size of a drift as a multiple of the size that matters.",
                ["family", "kind", "variant", "feature"],
                registry=registry,
            )
        )
        self._cycles = Counter(
            "turnout_monitoring_cycles", "Check cycles by result: done or failed.", ["result"], registry=registry
        )
        for result in ("done", "failed"):
            self._cycles.labels(result)
        self._seconds = Histogram(
            "turnout_monitoring_cycle_duration_seconds",
            "Time that a check cycle took.",
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0),
            registry=registry,
        )
        self._last = Gauge(
            "turnout_monitoring_last_cycle_timestamp_seconds",
            "When the last check cycle ended well, in seconds since 1970.",
            registry=registry,
        )

    def predicted(self, family: str, variant: str, prediction: str, count: int, decision_id: str = "") -> None:
        """Counts decisions that were stored; one of their ids becomes the exemplar."""
        exemplar = {"decision_id": decision_id} if decision_id and len(decision_id) <= _MAX_EXEMPLAR else None
        self._predictions.child(f"{family}/{variant}", prediction).inc(count, exemplar=exemplar)

    def predictions(self, counted: Iterable[tuple[str, str, str, int, str]]) -> None:
        """Counts decisions that were stored, each entry as the arguments of `predicted`."""
        for family, variant, prediction, count, decision_id in counted:
            self.predicted(family, variant, prediction, count, decision_id)

    def accuracy(self, family: str, variant: str, share: float) -> None:
        """States the accuracy of a variant over the last window."""
        self._accuracy.child(f"{family}/{variant}").set(share)

    def health(self, dimension: str, family: str, state: int) -> None:
        """States the health of a dimension by the proto's number; an empty family means the whole platform."""
        self._health.child(dimension, family).set(state)

    def drift(self, family: str, kind: str, variant: str, feature: str, ratio: float) -> None:
        """States the size of a drift as a multiple of the size that matters."""
        self._drift.child(family, kind, variant, feature).set(ratio)

    def cycle(self, seconds: float, *, ended_at: float, done: bool) -> None:
        """Counts a check cycle; `ended_at` is in seconds since 1970."""
        self._cycles.labels("done" if done else "failed").inc()
        self._seconds.observe(seconds)
        if done:
            self._last.set(ended_at)


class _Bounded:
    """Gives a metric's children; all that come after the 2 000th share one."""

    def __init__(self, metric: Any) -> None:
        self._labels: Callable[..., Any] = metric.labels
        self._children: dict[tuple[str, ...], Any] = {}

    def child(self, *labels: str) -> Any:
        found = self._children.get(labels)
        if found is None:
            if len(self._children) >= MAX_LABEL_SETS:
                labels = (OTHER,) * len(labels)
            found = self._children.get(labels) or self._children.setdefault(labels, self._labels(*labels))
        return found
