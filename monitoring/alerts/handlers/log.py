"""A line in the hub's log for each alert of a notification."""

from __future__ import annotations

from typing import Any, Final

import structlog

from monitoring.alerts.handlers.payload import as_dictionary
from monitoring.alerts.kinds import Severity
from monitoring.alerts.telling import Notification

_log: Final[Any] = structlog.get_logger(__name__)


class Log:
    """Logs alerts: info for what is over or below medium, a warning for medium, an error from high on."""

    async def deliver(self, notification: Notification) -> None:
        """Writes the lines; never fails."""
        for item, fields in zip(notification.items, as_dictionary(notification)["alerts"], strict=True):
            if not item.alert.active or item.alert.severity < Severity.MEDIUM:
                _log.info("alert", **fields)
            elif item.alert.severity < Severity.HIGH:
                _log.warning("alert", **fields)
            else:
                _log.error("alert", **fields)

    async def close(self) -> None:
        """Nothing to let go of."""
