"""Follows the hub's critical alerts, for the families whose policy keeps calls away from a variant that has one.

An alert counts where it names a variant: one about a whole family (its fallback rate, say) would otherwise bring about
more of what it warns of. While the hub is away, what it said last holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
import structlog

from router.resilience.standing_alerts import StandingAlerts
from services.runtime.cancelling import asked_to_end
from turnout.v1 import monitoring_pb2

_log = structlog.get_logger(__name__)
SILENCE_SECONDS: Final = 45.0
"""Three heartbeats of the hub without a word: the stream is dead."""
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 1.0


class AlertWatch:
    """MonitoringService's WatchAlerts, followed until cancelled.

    Args:
        channel: to the hub.
        alerts: is told on which variants critical alerts stand.
        wanted: tells whether any family's policy asks for them; the hub is not bothered before.
        token: credential towards the hub.
        jitter: gives a random number in [0, 1).
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        alerts: StandingAlerts,
        *,
        wanted: Callable[[], bool],
        token: str | None,
        jitter: Callable[[], float],
    ) -> None:
        self._alerts = alerts
        self._wanted = wanted
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._jitter = jitter
        self._standing: dict[str, tuple[str, str]] = {}
        self._method = channel.unary_stream(
            "/turnout.v1.MonitoringService/WatchAlerts",
            request_serializer=monitoring_pb2.WatchAlertsRequest.SerializeToString,
            response_deserializer=monitoring_pb2.WatchAlertsResponse.FromString,
        )

    async def run(self) -> None:
        """Follows the alerts until cancelled; whatever happens to one stream, another one is opened."""
        pause, told = _FIRST_PAUSE_SECONDS, ""
        while not asked_to_end():
            if not self._wanted():
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            reason = "ended"
            try:
                if await self._follow():
                    pause, told = _FIRST_PAUSE_SECONDS, ""
            except TimeoutError:
                reason = "silent"
            except grpc.aio.AioRpcError as error:
                reason = error.code().name
            except Exception as failure:  # noqa: BLE001 - one stream must not end the following
                reason = type(failure).__name__
                _log.error("watching alerts failed", exc_info=failure)
            if reason != told:
                _log.info("not watching alerts; what was said last holds", reason=reason)
                told = reason
            await asyncio.sleep(pause * (0.5 + self._jitter()))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _follow(self) -> bool:
        """Follows one stream to its end; gives whether anything was heard."""
        request = monitoring_pb2.WatchAlertsRequest(min_severity=monitoring_pb2.SEVERITY_CRITICAL)
        call: Any = self._method(request, metadata=self._metadata)
        heard = False
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    step = await call.read()
                if step is grpc.aio.EOF:
                    break
                heard = True
                self._hear(step)
        finally:
            call.cancel()
        return heard

    def _hear(self, step: monitoring_pb2.WatchAlertsResponse) -> None:
        match step.WhichOneof("step"):
            case "active":
                self._standing = {}
                for alert in step.active.alerts:
                    self._note(alert)
            case "event":
                self._note(step.event.alert)
            case _:
                return
        self._alerts.replace(self._standing.values())

    def _note(self, alert: monitoring_pb2.Alert) -> None:
        firing = alert.state == monitoring_pb2.ALERT_STATE_FIRING
        family, variant = alert.labels.get("family", ""), alert.labels.get("variant", "")
        if firing and alert.severity == monitoring_pb2.SEVERITY_CRITICAL and family and variant:
            self._standing[alert.id] = (family, variant)
        else:
            self._standing.pop(alert.id, None)
