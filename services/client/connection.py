"""One connection to a router: a channel of its own and, for the multiplexed transport, its stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog

from services.client.status import error_of_rpc
from services.client.stream import LONGEST_CALL_SECONDS, Pending, Queue, Rpc, Stream
from services.runtime.errors import TurnoutError, Unavailable

_log = structlog.get_logger(__name__)
_SERVICE: Final = "/turnout.v1.PredictionService/"
_OPTIONS: Final = (
    # A connection that is closed and made again must not share the broken one's socket or its backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # A black-holed router is noticed after 11 seconds; until then calls are answered at their deadline.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 1 << 20),
    ("grpc.enable_retries", 0),
    # A name with several routers behind it: each connection begins with another one.
    ("grpc.service_config", '{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}'),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the router is and how it is spoken to."""

    target: str
    """host:port, unix:path, or any gRPC target such as dns:///name:port."""
    token: str | None
    credentials: grpc.ChannelCredentials | None
    multiplexed: bool
    connect_seconds: float = 2.0


class Connection:
    """A connection that is up. `ended` is the task that waits for its end and gives the error, if there was one."""

    def __init__(self, channel: grpc.aio.Channel, endpoint: Endpoint, queue: Queue, clock: Callable[[], float]) -> None:
        self.channel = channel
        self.opened_at = clock()
        self._metadata = (("authorization", f"Bearer {endpoint.token}"),) if endpoint.token else ()
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[Any, Any]] = {}
        self._stream: Stream | None = None
        if endpoint.multiplexed:
            rpc: Rpc = channel.stream_stream(f"{_SERVICE}PredictStream")(metadata=self._metadata)
            self._stream = Stream(rpc, queue, clock)
        self.ended = asyncio.create_task(self._stream.run() if self._stream else self._watch())

    @property
    def under_way(self) -> dict[int, Pending]:
        """Calls that were sent on its stream and are not answered."""
        return self._stream.under_way if self._stream else {}

    @property
    def proved(self) -> bool:
        """Whether the router has answered on its stream."""
        return self._stream is not None and self._stream.proved

    def is_ready(self) -> bool:
        """Tells whether the transport is still up."""
        return self.channel.get_state() is grpc.ChannelConnectivity.READY

    def error(self) -> TurnoutError | None:
        """Gives the error that ended it; None while it is up, after a plain end and after `close`."""
        if not self.ended.done() or self.ended.cancelled():
            return None
        if (unexpected := self.ended.exception()) is not None:
            _log.error("the connection failed", exc_info=unexpected)
            return Unavailable("", "the connection to the router failed")
        return self.ended.result()

    async def ask(self, method: str, payload: bytes, timeout_seconds: float) -> bytes:
        """Makes one unary call.

        Raises:
            TurnoutError: the call's status.
        """
        callable_ = self._methods.get(method)
        if callable_ is None:
            callable_ = self._methods[method] = self.channel.unary_unary(method if "/" in method else _SERVICE + method)
        try:
            reply: bytes = await callable_(payload, timeout=max(0.0, timeout_seconds), metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise error_of_rpc(error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not the caller's wish: the channel was closed beneath the call.
            raise Unavailable("", "the connection to the router was closed") from None
        return reply

    async def retire(self) -> None:
        """Lets what is under way finish, then closes."""
        if self._stream is not None:
            self._stream.retire()
            # The router ends the stream after its last answer; one that does not is cut off with the channel.
            await asyncio.wait((self.ended,), timeout=LONGEST_CALL_SECONDS + 1.0)
        await self.close(LONGEST_CALL_SECONDS)

    async def close(self, grace_seconds: float | None = None) -> None:
        """Closes the channel; unary calls under way get the grace."""
        self.ended.cancel()
        await asyncio.wait((self.ended,))
        await self.channel.close(grace_seconds)

    async def _watch(self) -> TurnoutError | None:
        await self.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        return None


async def connect(endpoint: Endpoint, queue: Queue, clock: Callable[[], float]) -> Connection:
    """Opens a connection.

    Raises:
        Unavailable: the router cannot be reached.
    """
    if endpoint.credentials is None:
        channel = grpc.aio.insecure_channel(endpoint.target, options=_OPTIONS)
    else:
        channel = grpc.aio.secure_channel(endpoint.target, endpoint.credentials, options=_OPTIONS)
    try:
        async with asyncio.timeout(endpoint.connect_seconds):
            await _until_ready(channel, endpoint.target)
        return Connection(channel, endpoint, queue, clock)
    except TimeoutError as error:
        await channel.close()
        raise Unavailable("", f"the router at {endpoint.target} did not accept a connection in time") from error
    except BaseException:
        await channel.close()
        raise


async def _until_ready(channel: grpc.aio.Channel, target: str) -> None:
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            raise Unavailable("", f"the router at {target} cannot be reached")
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
