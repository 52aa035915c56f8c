"""Calls to the hub's MonitoringService for the commands: every call has a deadline, every error is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from services.client.status import error_of
from services.runtime.errors import TurnoutError, Unavailable
from turnout.v1 import monitoring_pb2 as pb

_OPTIONS: Final = (("grpc.max_receive_message_length", 16 << 20), ("grpc.enable_retries", 0))
_SECONDS: Final = 30.0
_SERVICE: Final = pb.DESCRIPTOR.services_by_name["MonitoringService"]
_METHODS: Final = {method.input_type.name: method for method in _SERVICE.methods}
Reply = TypeVar("Reply", bound=Message)


class Monitoring:
    """A connection to the hub's monitoring; use it inside `with`.

    Args:
        address: host:port or unix:path.
        token: the operator's bearer token, where the hub asks for one.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)

    def __enter__(self) -> Self:
        """Gives itself; the connection is made by the first call."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connection."""
        self._channel.close()

    def ask(self, request: Message, reply: type[Reply]) -> Reply:
        """Calls the method that takes this request.

        Args:
            request: what to ask.
            reply: type of the answer.

        Raises:
            TurnoutError: the hub refused, or cannot be reached.
        """
        method = _METHODS[type(request).DESCRIPTOR.name]
        call: Any = self._channel.unary_unary(
            f"/{_SERVICE.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            answer: Reply = call(request, timeout=_SECONDS, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._sentence(error) from None
        return answer

    def watch(self, request: pb.WatchAlertsRequest) -> Iterator[pb.WatchAlertsResponse]:
        """Follows alerts until the hub ends the stream.

        Raises:
            TurnoutError: the hub refused, or cannot be reached.
        """
        method = _METHODS["WatchAlertsRequest"]
        call: Any = self._channel.unary_stream(
            f"/{_SERVICE.full_name}/{method.name}",
            request_serializer=pb.WatchAlertsRequest.SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        try:
            yield from call(request, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._sentence(error) from None

    def _sentence(self, error: Any) -> TurnoutError:
        match error.code():
            case grpc.StatusCode.UNAVAILABLE:
                told = str(error.details())
                if "connect" not in told.lower() and "socket" not in told.lower():
                    # The hub itself says that something behind it is away.
                    return Unavailable("", told)
                sentence = f"the hub at {self._address} cannot be reached: start it with `turnout up`, or correct --hub"
                return Unavailable("", sentence)
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return Unavailable("", f"the hub at {self._address} did not answer in time; try again")
            case code:
                return error_of(code.value[0], str(error.details()), "")


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
