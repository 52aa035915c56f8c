"""Calls to the hub's MonitoringService for the commands: every call has a deadline, every error is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.message import Message

from services.cli.hub_connection import HubConnection, Reply
from turnout.v1 import monitoring_pb2 as pb

_SECONDS: Final = 30.0
_SERVICE: Final = pb.DESCRIPTOR.services_by_name["MonitoringService"]
_METHODS: Final = {method.input_type.name: method.name for method in _SERVICE.methods}


class Monitoring(HubConnection):
    """The hub's monitoring; use it inside `with`."""

    def ask(self, request: Message, reply: type[Reply]) -> Reply:
        """Calls the method that takes this request.

        Args:
            request: what to ask.
            reply: type of the answer.

        Raises:
            TurnoutError: the hub refused, or cannot be reached.
        """
        method = _METHODS[type(request).DESCRIPTOR.name]
        return self._unary(f"MonitoringService/{method}", request, reply, _SECONDS)

    def watch(self, request: pb.WatchAlertsRequest) -> Iterator[pb.WatchAlertsResponse]:
        """Follows alerts until the hub ends the stream.

        Raises:
            TurnoutError: the hub refused, or cannot be reached.
        """
        return self._stream("MonitoringService/WatchAlerts", request, pb.WatchAlertsResponse, None)


def word(enum: Any, value: int) -> str:
    """Gives the value of a protobuf enum as people write it: "degraded" for HEALTH_STATE_DEGRADED."""
    name: str = enum.Name(value)
    prefix = "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in enum.DESCRIPTOR.name)
    return name.removeprefix(f"{prefix.lstrip('_')}_").lower()


def instant(at_us: int) -> str:
    """Gives an instant in ISO 8601, empty for none."""
    return "" if not at_us else datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="seconds")


def measures(found: Any) -> dict[str, dict[str, Any]]:
    """Gives measures by name, for programs."""
    return {
        one.name: {
            "value": one.value,
            "unit": one.unit,
            **{name: getattr(one, name) if one.HasField(name) else None for name in ("limit", "low", "high")},
        }
        for one in found
    }
