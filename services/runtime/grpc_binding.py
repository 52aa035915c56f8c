"""Binds transport-free handlers to grpc.aio: decode, delegate, encode, and one boundary for errors.

Messages are decoded here rather than by grpc, because grpc answers a malformed one with UNKNOWN and the exception's
text. A method `PredictBatch` of the proto is served by `implementation.predict_batch(request, call)`.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from services.runtime.admission import Admission
from services.runtime.errors import INTERNAL, INTERNAL_MESSAGE, InvalidArgument, ResourceExhausted, TurnoutError
from services.runtime.identity import Identify, everybody
from services.runtime.unread import end_if_unread

__all__ = ["Admission", "GrpcCall", "bind", "retry_after_ms", "snake_case", "status_details", "too_many"]
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_log = structlog.get_logger(__name__)
MAX_STREAMS: Final = 64
Context = grpc.aio.ServicerContext[Any, Any]


class GrpcCall:
    """A Call on top of a grpc.aio context."""

    __slots__ = ("_context", "tenant")

    def __init__(self, context: Context, tenant: str) -> None:
        self._context = context
        self.tenant = tenant

    @property
    def peer(self) -> str:
        """Where the call comes from, for logs."""
        return str(self._context.peer())

    def metadata(self) -> dict[str, str]:
        """The caller's own metadata, texts only and without the credential; of entries with one name the last."""
        return {
            key: value
            for key, value in self._context.invocation_metadata() or ()
            if isinstance(value, str) and key != "authorization"
        }

    def time_left(self) -> float | None:
        """Seconds until the caller's deadline; None when the caller set none."""
        return self._context.time_remaining()


Refused = Callable[[str, int], None]
"""Hears of every call that ended with an error: the service's full name and the status code."""


@dataclass(frozen=True, slots=True)
class _Boundary:
    """What stands between callers and the methods of one service."""

    service: str
    identify: Identify
    admission: Admission
    streams: Admission
    critical: Callable[[bytes], bool] | None
    refused: Refused | None


def bind(
    service: ServiceDescriptor,
    implementation: object,
    *,
    identify: Identify = everybody,
    admission: Admission | None = None,
    streams: Admission | None = None,
    critical: Callable[[bytes], bool] | None = None,
    refused: Refused | None = None,
) -> grpc.GenericRpcHandler:
    """Gives the grpc handler of a service whose methods the implementation has under their snake_case names.

    Args:
        service: the service.
        implementation: its methods.
        identify: knows tenants by their credentials.
        admission: lets calls in; a multiplexed stream is let in always, its calls are the implementation's to ask for.
        streams: lets calls in that are answered by a stream: they last, and must not keep short ones out.
        critical: tells from a serialized request whether its call is let in whatever the load.
        refused: counts the calls that ended with an error.

    Raises:
        AttributeError: the implementation lacks a method.
    """
    room, streams = admission or Admission(1 << 30), streams or Admission(MAX_STREAMS)
    boundary = _Boundary(service.full_name, identify, room, streams, critical, refused)
    handlers = {method.name: _handler(method, implementation, boundary) for method in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def snake_case(name: str) -> str:
    """Turns PredictBatch into predict_batch."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _handler(method: MethodDescriptor, implementation: object, boundary: _Boundary) -> grpc.RpcMethodHandler[Any, Any]:
    function = getattr(implementation, snake_case(method.name))
    request_type = GetMessageClass(method.input_type)
    if method.client_streaming:
        if not method.server_streaming:
            raise NotImplementedError(f"{method.full_name}: client streaming is not used in Turnout")
        return grpc.stream_stream_rpc_method_handler(_stream_stream(function, request_type, boundary))
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(_unary_stream(function, request_type, boundary))
    return grpc.unary_unary_rpc_method_handler(_unary_unary(function, request_type, boundary))


def _unary_unary(
    function: Callable[..., Awaitable[Message]], request_type: type[Message], boundary: _Boundary
) -> Callable[[bytes, Context], Awaitable[bytes]]:
    parse, admission, is_critical = request_type.FromString, boundary.admission, boundary.critical

    async def handle(raw: bytes, context: Context) -> bytes:
        critical = is_critical is not None and is_critical(raw)
        if wait := admission.enter(critical=critical):
            raise await _abort(context, too_many(wait), boundary)
        try:
            call = GrpcCall(context, _tenant(context, boundary.identify))
            return (await function(parse(raw), call)).SerializeToString()
        except Exception as error:  # noqa: BLE001 - the one boundary
            raise await _abort(context, _visible(error, request_type), boundary) from None
        finally:
            admission.leave(critical=critical)

    return handle


def _unary_stream(
    function: Callable[..., AsyncIterator[Message]], request_type: type[Message], boundary: _Boundary
) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
    admission = boundary.streams

    async def handle(raw: bytes, context: Context) -> AsyncIterator[bytes]:
        if wait := admission.enter():
            raise await _abort(context, too_many(wait), boundary)
        try:
            call = GrpcCall(context, _tenant(context, boundary.identify))
            async for reply in function(request_type.FromString(raw), call):
                # Who does not read has the sending hang: nothing else would end the call.
                stuck = end_if_unread(context)
                try:
                    yield reply.SerializeToString()
                finally:
                    stuck.cancel()
        except Exception as error:  # noqa: BLE001 - the one boundary
            raise await _abort(context, _visible(error, request_type), boundary) from None
        finally:
            admission.leave()

    return handle


def _stream_stream(
    function: Callable[..., AsyncIterator[Message]], request_type: type[Message], boundary: _Boundary
) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]:
    async def handle(frames: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async def requests() -> AsyncIterator[Message]:
            async for raw in frames:
                yield request_type.FromString(raw)

        try:
            call = GrpcCall(context, _tenant(context, boundary.identify))
            async for reply in function(requests(), call):
                yield reply.SerializeToString()
        except Exception as error:  # noqa: BLE001 - the one boundary
            raise await _abort(context, _visible(error, request_type), boundary) from None

    return handle


def too_many(wait: float) -> ResourceExhausted:
    """Gives the error of a call that is not let in; `wait` is in seconds."""
    return ResourceExhausted("", "the server has too many calls under way; try again", retry_after=wait)


def _tenant(context: Context, identify: Identify) -> str:
    if identify is everybody:
        return identify(None)
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return identify(value if isinstance(value, str) else None)
    return identify(None)


def _visible(error: Exception, request_type: type[Message]) -> Exception:
    """Turns what escaped a handler into what the caller may see; an AbortError passes as it is."""
    if isinstance(error, TurnoutError | grpc.aio.AbortError):
        return error
    if isinstance(error, DecodeError):
        return InvalidArgument("", f"the message is not a valid {request_type.DESCRIPTOR.full_name}")
    _log.error("handler failed", exc_info=error)
    return error


async def _abort(context: Context, error: Exception, boundary: _Boundary) -> Exception:
    """Ends the call with the error's status; gives the exception to raise (grpc's own AbortError)."""
    if isinstance(error, grpc.aio.AbortError):
        return error
    code = error.code if isinstance(error, TurnoutError) else INTERNAL
    if boundary.refused is not None:
        boundary.refused(boundary.service, code)
    try:
        if isinstance(error, TurnoutError):
            await context.abort(CODES[code], error.message, _trailers(error))
        else:
            await context.abort(grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE)
    except grpc.aio.AbortError as aborted:
        return aborted
    raise AssertionError("abort returned")


def _trailers(error: TurnoutError) -> tuple[tuple[str, str | bytes], ...]:
    if isinstance(error, ResourceExhausted):
        ms = retry_after_ms(error)
        return (("grpc-status-details-bin", _exhausted(error.field, error.message, ms)), ("retry-after-ms", str(ms)))
    return (("grpc-status-details-bin", status_details(error)),)


def retry_after_ms(error: TurnoutError) -> int:
    """Gives the milliseconds after which a refused call may come again, in two digits; 0 where that is no use."""
    if not isinstance(error, ResourceExhausted) or not math.isfinite(error.retry_after):
        return 0
    ms = max(int(error.retry_after * 1000), 1)
    # Two digits are exact enough, and let refusals under load share what they say.
    digits = int(10 ** max(len(str(ms)) - 2, 0))
    return -(-ms // digits) * digits


@lru_cache(maxsize=1024)
def _exhausted(field: str, message: str, ms: int) -> bytes:
    return status_details(ResourceExhausted(field, message, ms / 1000))


def status_details(error: TurnoutError) -> bytes:
    """Gives the google.rpc.Status of an error: a BadRequest naming the field, a RetryInfo where waiting helps."""
    status = status_pb2.Status(code=error.code, message=error.message)
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if ms := retry_after_ms(error):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(ms)
        status.details.add().Pack(retry)
    return bytes(status.SerializeToString())
