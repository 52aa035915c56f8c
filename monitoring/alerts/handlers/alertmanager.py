"""Prometheus Alertmanager, API version 2 (`POST /api/v2/alerts`).

Alertmanager takes an alert for over when its `endsAt` has passed, and tells alerts apart by all of their labels. So
what fires is repeated well before its `endsAt`; and since `severity` is a label (routes go by it), an escalation ends
the alert of the old severity and begins one of the new.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from monitoring.alerts.alert import Alert
from monitoring.alerts.handlers.handler import read_secret
from monitoring.alerts.handlers.http import Poster
from monitoring.alerts.handlers.payload import rfc3339
from monitoring.alerts.kinds import SECOND_US, Severity
from monitoring.alerts.telling import Item, Notification
from services.runtime.monitoring_config import AlertmanagerHandler


class Alertmanager:
    """Posts notifications to an Alertmanager.

    Args:
        config: where it is.
        seconds: how long an attempt may take.
        repeat_seconds: how often what fires is repeated; it counts as over after four times that.
        now_us: microseconds since 1970-01-01T00:00Z.
    """

    def __init__(
        self, config: AlertmanagerHandler, *, seconds: float, repeat_seconds: int, now_us: Callable[[], int]
    ) -> None:
        self._config = config
        self._lasts_us = 4 * repeat_seconds * SECOND_US
        self._now_us = now_us
        self._poster = Poster(seconds)

    async def deliver(self, notification: Notification) -> None:
        """Posts it.

        Raises:
            DeliveryFailed: the token cannot be read, or Alertmanager did not take it.
        """
        now_us = self._now_us()
        alerts = [alert for item in notification.items for alert in self._alerts(item, now_us)]
        headers = {"content-type": "application/json"}
        if token := read_secret(self._config.token_env, self._config.token_file):
            headers["authorization"] = f"Bearer {token}"
        url = f"{self._config.url.rstrip('/')}/api/v2/alerts"
        await self._poster.post(url, json.dumps(alerts, ensure_ascii=False).encode(), headers)

    async def close(self) -> None:
        """Closes the connections."""
        await self._poster.close()

    def _alerts(self, item: Item, now_us: int) -> list[dict[str, Any]]:
        alert = item.alert
        ends_us = now_us + self._lasts_us if alert.active else alert.resolved_at_us
        posted = [_alert(alert, alert.severity, ends_us)]
        if item.before is not None and item.before.severity is not alert.severity:
            posted.insert(0, _alert(alert, item.before.severity, min(now_us, ends_us)))
        return posted


def alert_name(alert: Alert) -> str:
    """Gives Prometheus' name of an alert: FeatureDrift for feature_drift."""
    return "".join(part.capitalize() for part in alert.type.value.split("_"))


def _alert(alert: Alert, severity: Severity, ends_us: int) -> dict[str, Any]:
    labels = {**alert.labels, "alertname": alert_name(alert), "type": alert.type.value, "severity": severity.word}
    if severity.priority:
        labels["priority"] = severity.priority
    annotations = {"summary": alert.summary, "alert_id": alert.id}
    for name, number in (("value", alert.value), ("limit", alert.limit)):
        if number is not None:
            annotations[name] = repr(number)
    return {
        "labels": labels,
        "annotations": annotations,
        "startsAt": rfc3339(alert.fired_at_us),
        "endsAt": rfc3339(max(ends_us, alert.fired_at_us)),
    }
