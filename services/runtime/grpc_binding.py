"""Binds transport-free handlers to grpc.aio: decode, delegate, encode, and one boundary for errors.

Messages are decoded here rather than by grpc, because grpc answers a malformed one with UNKNOWN and the exception's
text. A method `PredictBatch` of the proto is served by `implementation.predict_batch(request, call)`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.runtime.errors import INTERNAL_MESSAGE, InvalidArgument, ResourceExhausted, TurnoutError
from services.runtime.identity import Identify, everybody

CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_log = structlog.get_logger(__name__)
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

    def time_left(self) -> float | None:
        """Seconds until the caller's deadline; None when the caller set none."""
        return self._context.time_remaining()


class Admission:
    """Counts the calls under way on a server and refuses those over the bound, so that memory stays bounded."""

    __slots__ = ("limit", "under_way")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.under_way = 0


def bind(
    service: ServiceDescriptor,
    implementation: object,
    *,
    identify: Identify = everybody,
    admission: Admission | None = None,
) -> grpc.GenericRpcHandler:
    """Gives the grpc handler of a service whose methods the implementation has under their snake_case names.

    Raises:
        AttributeError: the implementation lacks a method.
    """
    gate = admission or Admission(1 << 30)
    handlers = {method.name: _handler(method, implementation, identify, gate) for method in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def snake_case(name: str) -> str:
    """Turns PredictBatch into predict_batch."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _handler(
    method: MethodDescriptor, implementation: object, identify: Identify, admission: Admission
) -> grpc.RpcMethodHandler[Any, Any]:
    function = getattr(implementation, snake_case(method.name))
    request_type = GetMessageClass(method.input_type)
    if method.client_streaming:
        if not method.server_streaming:
            raise NotImplementedError(f"{method.full_name}: client streaming is not used in Turnout")
        return grpc.stream_stream_rpc_method_handler(_stream_stream(function, request_type, identify))
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(_unary_stream(function, request_type, identify, admission))
    return grpc.unary_unary_rpc_method_handler(_unary_unary(function, request_type, identify, admission))


def _unary_unary(
    function: Callable[..., Awaitable[Message]], request_type: type[Message], identify: Identify, admission: Admission
) -> Callable[[bytes, Context], Awaitable[bytes]]:
    parse = request_type.FromString

    async def handle(raw: bytes, context: Context) -> bytes:
        if admission.under_way >= admission.limit:
            raise await _abort(context, ResourceExhausted("", "the server has too many calls under way; try again"))
        admission.under_way += 1
        try:
            call = GrpcCall(context, _tenant(context, identify))
            return (await function(parse(raw), call)).SerializeToString()
        except Exception as error:  # noqa: BLE001 - the one boundary
            raise await _abort(context, _visible(error, request_type)) from None
        finally:
            admission.under_way -= 1

    return handle


def _unary_stream(
    function: Callable[..., AsyncIterator[Message]],
    request_type: type[Message],
    identify: Identify,
    admission: Admission,
) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
    async def handle(raw: bytes, context: Context) -> AsyncIterator[bytes]:
        if admission.under_way >= admission.limit:
            raise await _abort(context, ResourceExhausted("", "the server has too many calls under way; try again"))
        admission.under_way += 1
        try:
            call = GrpcCall(context, _tenant(context, identify))
            async for reply in function(request_type.FromString(raw), call):
                yield reply.SerializeToString()
        except Exception as error:  # noqa: BLE001 - the one boundary
            raise await _abort(context, _visible(error, request_type)) from None
        finally:
            admission.under_way -= 1

    return handle


def _stream_stream(
    function: Callable[..., AsyncIterator[Message]], request_type: type[Message], identify: Identify
) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]:
    async def handle(frames: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async def requests() -> AsyncIterator[Message]:
            async for raw in frames:
                yield request_type.FromString(raw)

        try:
            call = GrpcCall(context, _tenant(context, identify))
            async for reply in function(requests(), call):
                yield reply.SerializeToString()
        except Exception as error:  # noqa: BLE001 - the one boundary
            raise await _abort(context, _visible(error, request_type)) from None

    return handle


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


async def _abort(context: Context, error: Exception) -> Exception:
    """Ends the call with the error's status; gives the exception to raise (grpc's own AbortError)."""
    if isinstance(error, grpc.aio.AbortError):
        return error
    try:
        if isinstance(error, TurnoutError):
            details = status_details(error)
            await context.abort(CODES[error.code], error.message, (("grpc-status-details-bin", details),))
        else:
            await context.abort(grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE)
    except grpc.aio.AbortError as aborted:
        return aborted
    raise AssertionError("abort returned")


def status_details(error: TurnoutError) -> bytes:
    """Gives the google.rpc.Status of an error: a BadRequest naming the field, a RetryInfo where waiting helps."""
    status = status_pb2.Status(code=error.code, message=error.message)
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.code == code_pb2.RESOURCE_EXHAUSTED:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(100)
        status.details.add().Pack(retry)
    return bytes(status.SerializeToString())
