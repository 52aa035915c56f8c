"""What experiment control tells Prometheus. Labels are bounded: kinds of changes, results, status codes."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class ControlMetrics:
    """Counters of one process, on the registry that its composition root gives."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._changes = Counter(
            "turnout_control_changes", "Changes asked for that are in force, by method.", ["kind"], registry=registry
        )
        self._refusals = Counter(
            "turnout_control_refusals", "Changes that were refused, by method and gRPC code.", ["kind", "code"],
            registry=registry,
        )  # fmt: skip
        self._imports = Counter(
            "turnout_control_imports", "Readings of a changed turnout.yaml, by result.", ["result"], registry=registry
        )
        self.watchers = Gauge("turnout_control_watchers", "Routers that watch.", registry=registry)
        self.version = Gauge("turnout_control_set_version", "Version of the newest set.", registry=registry)
        self._answers = Counter(
            "turnout_control_acknowledgements", "Sets that routers applied or refused.", ["result"], registry=registry
        )
        self._dropped = Counter(
            "turnout_control_watchers_dropped", "Streams of routers that were ended.", ["reason"], registry=registry
        )
        self._lag = Histogram(
            "turnout_control_lag_seconds",
            "From the storing of a version to a router's acknowledgement.",
            buckets=_BUCKETS,
            registry=registry,
        )

    def changed(self, kind: str) -> None:
        """Counts a change that is in force."""
        self._changes.labels(kind).inc()

    def refused(self, kind: str, code: int) -> None:
        """Counts a change that was refused, with the number of its gRPC status."""
        self._refusals.labels(kind, str(code)).inc()

    def imported(self, *, taken: bool) -> None:
        """Counts a changed turnout.yaml that was taken over or refused."""
        self._imports.labels("taken" if taken else "refused").inc()

    def acknowledged(self, lag_seconds: float | None, *, applied: bool) -> None:
        """Counts a router's answer to a set; the lag is None where it would say nothing."""
        self._answers.labels("applied" if applied else "refused").inc()
        if lag_seconds is not None:
            self._lag.observe(lag_seconds)

    def dropped(self, reason: str) -> None:
        """Counts a stream that was ended: replaced, silent, wrong."""
        self._dropped.labels(reason).inc()
