"""MonitoringService, put together of the parts that answer its calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Final

from google.protobuf.descriptor import ServiceDescriptor

from services.runtime.grpc_binding import snake_case
from turnout.v1 import monitoring_pb2

MONITORING: Final[ServiceDescriptor] = monitoring_pb2.DESCRIPTOR.services_by_name["MonitoringService"]


def monitoring_service(*parts: object) -> object:
    """Gives an object with every method of MonitoringService, each taken from the first part that has it.

    Raises:
        AttributeError: no part has a method that the proto names.
    """
    found = {}
    for method in MONITORING.methods:
        name = snake_case(method.name)
        part = next((part for part in parts if hasattr(part, name)), None)
        if part is None:
            raise AttributeError(f"nothing answers {method.full_name}")
        found[name] = getattr(part, name)
    return SimpleNamespace(**found)
