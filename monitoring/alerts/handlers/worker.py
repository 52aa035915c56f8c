"""One handler's worker: asks the engine what is due, tries it, waits longer after each failure, and gives up at last.

It keeps nothing that could be lost: what is due stands in the engine until the handler has taken it. A group that fails
does not keep other groups waiting, and a handler that fails keeps no other handler waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from monitoring.alerts.engine import AlertEngine
from monitoring.alerts.handlers.handler import DeliveryFailed, Handler
from monitoring.alerts.metrics import AlertMetrics
from monitoring.alerts.telling import Notification
from services.runtime.cancelling import asked_to_end

FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 5.0
"""Looks for what is due at least this often: repetitions and ended silences come with time alone."""
FAILED: Final = "the handler itself failed; the hub's log has the details"
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Trouble:
    """A group that failed."""

    attempts: int
    first_failed: float
    not_before: float


@dataclass(slots=True)
class Tally:
    """How a handler does, since the hub's start."""

    delivered: int = 0
    failed: int = 0
    given_up: int = 0
    last_error: str = ""
    last_delivered_us: int = 0


class Worker:
    """Serves one handler until it is cancelled.

    Args:
        name: the handler's.
        handler: who takes notifications.
        engine: knows what is due.
        attempt_seconds: how long an attempt may take, whatever the handler itself does.
        give_up_seconds: how long a notification is tried.
        metrics: what Prometheus is told.
        clock: rising seconds.
        now_us: microseconds since 1970-01-01T00:00Z.
        chance: a number in [0, 1), to spread attempts.
    """

    def __init__(
        self,
        name: str,
        handler: Handler,
        engine: AlertEngine,
        *,
        attempt_seconds: float,
        give_up_seconds: float,
        metrics: AlertMetrics,
        clock: Callable[[], float],
        now_us: Callable[[], int],
        chance: Callable[[], float],
    ) -> None:
        self.name = name
        self.tally = Tally()
        self._handler, self._engine, self._metrics = handler, engine, metrics
        self._attempt_seconds, self._give_up_seconds = attempt_seconds, give_up_seconds
        self._clock, self._now_us, self._chance = clock, now_us, chance
        self._troubles: dict[str, _Trouble] = {}
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Has it look for what is due."""
        self._woken.set()

    @property
    def waiting(self) -> int:
        """Alerts that the handler has not heard of yet."""
        return sum(len(notification.items) for notification in self._engine.due(self.name))

    async def run(self) -> None:
        """Serves the handler until cancelled; then lets go of its connections."""
        stop_waking = self._engine.wake_on_change(self.wake)
        try:
            while not asked_to_end():
                try:
                    wait = await self.round()
                except Exception:  # noqa: BLE001 - what is due stands in the engine; the next look finds it again
                    _log.exception("alerts could not be handed over", handler=self.name)
                    wait = LOOK_SECONDS
                try:
                    async with asyncio.timeout(wait):
                        await self._woken.wait()
                except TimeoutError:
                    continue
        finally:
            stop_waking()
            await self._handler.close()

    async def round(self) -> float:
        """Tries all that is due now, each once; gives the seconds until the next look without a wake."""
        self._woken.clear()
        notifications = self._engine.due(self.name)
        groups = {notification.group for notification in notifications}
        self._troubles = {group: trouble for group, trouble in self._troubles.items() if group in groups}
        for notification in notifications:
            trouble = self._troubles.get(notification.group)
            if trouble is None or trouble.not_before <= self._clock():
                await self._try(notification)
        self._metrics.waiting(self.name, self.waiting)
        soonest = min((trouble.not_before for trouble in self._troubles.values()), default=float("inf"))
        return max(0.01, min(LOOK_SECONDS, soonest - self._clock()))

    async def _try(self, notification: Notification) -> None:
        began = self._clock()
        try:
            async with asyncio.timeout(self._attempt_seconds):
                await self._handler.deliver(notification)
        except DeliveryFailed as error:
            await self._failed(notification, str(error), self._clock() - began)
        except TimeoutError:
            await self._failed(notification, f"not done within {self._attempt_seconds:g} s", self._clock() - began)
        except Exception:  # noqa: BLE001 - a handler that breaks must not end its worker
            _log.exception("alert handler failed", handler=self.name)
            await self._failed(notification, FAILED, self._clock() - began)
        else:
            self._troubles.pop(notification.group, None)
            self.tally.delivered += 1
            self.tally.last_error = ""
            self.tally.last_delivered_us = self._now_us()
            self._metrics.delivery(self.name, "delivered", self._clock() - began)
            await self._engine.took(self.name, notification)

    async def _failed(self, notification: Notification, reason: str, seconds: float) -> None:
        now = self._clock()
        trouble = self._troubles.setdefault(notification.group, _Trouble(0, now, now))
        trouble.attempts += 1
        self.tally.failed += 1
        self.tally.last_error = reason
        self._metrics.delivery(self.name, "failed", seconds)
        if now - trouble.first_failed >= self._give_up_seconds:
            del self._troubles[notification.group]
            self.tally.given_up += 1
            self._metrics.delivery(self.name, "given_up", 0.0)
            _log.error(
                "notification given up",
                handler=self.name,
                reason=reason,
                key=notification.key,
                group=notification.group,
            )
            await self._engine.took(self.name, notification)
            return
        # Full jitter: attempts of many hubs must not come back in step.
        longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(trouble.attempts - 1, 30))
        trouble.not_before = now + longest * (0.5 + 0.5 * self._chance())
        _log.warning(
            "notification failed",
            handler=self.name,
            reason=reason,
            attempts=trouble.attempts,
            next_in_seconds=round(trouble.not_before - now, 1),
        )
