"""The router hears of critical alerts from the hub, as long as the hub is there, and keeps to them when it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from router.resilience.reasons import Fallback
from services.runtime.call import Call
from services.runtime.grpc_binding import bind
from services.runtime.serving import serving
from tests.integration.platform_under_test import platform
from turnout.v1 import monitoring_pb2


class FakeMonitoring:
    """A MonitoringService whose steps a test puts into its queue."""

    def __init__(self) -> None:
        self.steps: asyncio.Queue[monitoring_pb2.WatchAlertsResponse] = asyncio.Queue()
        self.asked: list[monitoring_pb2.WatchAlertsRequest] = []

    def __getattr__(self, _: str) -> object:
        return self._not_asked

    async def _not_asked(self, *_: object) -> object:
        raise AssertionError

    async def watch_alerts(
        self, request: monitoring_pb2.WatchAlertsRequest, _: Call
    ) -> AsyncIterator[monitoring_pb2.WatchAlertsResponse]:
        self.asked.append(request)
        while True:
            yield await self.steps.get()


def alert(state: int, *, severity: int = monitoring_pb2.SEVERITY_CRITICAL, **labels: str) -> monitoring_pb2.Alert:
    """An alert about the fake variant, unless labels say otherwise."""
    return monitoring_pb2.Alert(
        id="1",
        state=state,  # type: ignore[arg-type]
        severity=severity,  # type: ignore[arg-type]
        labels=labels or {"family": "dispatch", "variant": "fake"},
    )


async def test_a_critical_alert_keeps_calls_away_until_it_is_resolved() -> None:
    """It holds while the hub is away; alerts about a whole family or less severe ones change nothing."""
    firing, resolved = monitoring_pb2.ALERT_STATE_FIRING, monitoring_pb2.ALERT_STATE_RESOLVED
    monitoring = FakeMonitoring()
    service = monitoring_pb2.DESCRIPTOR.services_by_name["MonitoringService"]
    async with platform() as p:
        given = p.config["families"]["dispatch"]
        p.write(families={"dispatch": {**given, "policy": {"critical_alert": "rules"}}})
        hub = p.config["hub"]["grpc"]

        async def until(expected: Fallback) -> None:
            async with asyncio.timeout(20):
                while Fallback((await p.call.predict()).fallback) is not expected:
                    await asyncio.sleep(0.01)

        async with serving(lambda _: [bind(service, monitoring)], hub, drain_seconds=0):
            active = monitoring_pb2.ActiveAlerts(alerts=[alert(firing)])
            monitoring.steps.put_nowait(monitoring_pb2.WatchAlertsResponse(active=active))
            await until(Fallback.ALERT)
            assert monitoring.asked[0].min_severity == monitoring_pb2.SEVERITY_CRITICAL
        assert Fallback((await p.call.predict()).fallback) is Fallback.ALERT
        async with serving(lambda _: [bind(service, monitoring)], hub, drain_seconds=0):
            event = monitoring_pb2.AlertEvent(alert=alert(resolved))
            monitoring.steps.put_nowait(monitoring_pb2.WatchAlertsResponse(event=event))
            await until(Fallback.NONE)
            for harmless in (
                alert(firing, family="dispatch"),
                alert(firing, severity=monitoring_pb2.SEVERITY_HIGH),
                alert(monitoring_pb2.ALERT_STATE_PENDING),
            ):
                event = monitoring_pb2.AlertEvent(alert=harmless)
                monitoring.steps.put_nowait(monitoring_pb2.WatchAlertsResponse(event=event))
            async with asyncio.timeout(10):
                while not monitoring.steps.empty():
                    await asyncio.sleep(0.01)
            assert Fallback((await p.call.predict()).fallback) is Fallback.NONE
