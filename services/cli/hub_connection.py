"""A connection to the hub for the commands: every call has a deadline, every error is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
from google.protobuf.message import Message

from services.client.status import error_of
from services.runtime.errors import TurnoutError, Unavailable

_OPTIONS: Final = (("grpc.max_receive_message_length", 16 << 20), ("grpc.enable_retries", 0))
Reply = TypeVar("Reply", bound=Message)


class HubConnection:
    """A connection to the hub; use it inside `with`.

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

    def _unary(self, method: str, request: Message, reply: type[Reply], seconds: float) -> Reply:
        """Calls "Service/Method" of turnout.v1; whatever goes wrong is a TurnoutError."""
        call: Any = self._channel.unary_unary(
            f"/turnout.v1.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            answer: Reply = call(request, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._sentence(error) from None
        return answer

    def _stream(self, method: str, request: Message, reply: type[Reply], seconds: float | None) -> Iterator[Reply]:
        """Follows a stream until it ends, at most so long; None for as long as the hub lets it."""
        call: Any = self._channel.unary_stream(
            f"/turnout.v1.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            yield from call(request, timeout=seconds, metadata=self._metadata)
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
