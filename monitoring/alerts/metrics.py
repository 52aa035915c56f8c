"""What alerts tell Prometheus. Labels come from closed sets and from the configured handlers."""

from __future__ import annotations

import contextlib
from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from monitoring.alerts.alert import Alert, Event
from monitoring.alerts.kinds import AlertType, EventKind, Severity, State


class AlertMetrics:
    """Counters of one hub, on the registry that its composition root gives."""

    def __init__(self, registry: CollectorRegistry) -> None:
        firing = Gauge("turnout_alerts_firing", "Alerts that fire now.", ["type", "severity"], registry=registry)
        self._firing = {
            (kind, severity): firing.labels(kind.value, severity.word) for kind in AlertType for severity in Severity
        }
        events = Counter("turnout_alert_events", "What happened to alerts.", ["type", "event"], registry=registry)
        self._events = {
            (kind, event): events.labels(kind.value, event.name.lower()) for kind in AlertType for event in EventKind
        }
        self._unsaved = Gauge(
            "turnout_alert_unsaved_rows",
            "Changes of alerts that wait in memory because the database refuses them.",
            registry=registry,
        )
        self._deliveries = Counter(
            "turnout_alert_deliveries",
            "Notifications by handler and result: delivered, failed (and tried again) or given_up.",
            ["handler", "result"],
            registry=registry,
        )
        self._seconds = Histogram(
            "turnout_alert_delivery_duration_seconds",
            "Time that a handler took for a notification.",
            ["handler"],
            buckets=(0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0),
            registry=registry,
        )
        self._waiting = Gauge(
            "turnout_alert_waiting", "Alerts that a handler has not heard of yet.", ["handler"], registry=registry
        )

    def happened(self, event: Event) -> None:
        """Counts an event."""
        self._events[event.alert.type, event.kind].inc()

    def show(self, active: Iterable[Alert], unsaved_rows: int) -> None:
        """States which alerts fire, and how many rows wait for the database."""
        tally = Tally((alert.type, alert.severity) for alert in active if alert.state is State.FIRING)
        for key, gauge in self._firing.items():
            gauge.set(tally[key])
        self._unsaved.set(unsaved_rows)

    def delivery(self, handler: str, result: str, seconds: float) -> None:
        """Counts an attempt at a notification."""
        self._deliveries.labels(handler, result).inc()
        self._seconds.labels(handler).observe(seconds)

    def waiting(self, handler: str, alerts: int) -> None:
        """States how many alerts a handler has not heard of."""
        self._waiting.labels(handler).set(alerts)

    def forget(self, handler: str) -> None:
        """Takes out a handler that is not configured any more."""
        with contextlib.suppress(KeyError):
            self._waiting.remove(handler)
