"""From a status of the router back to the error class that the router raised: the inverse of the runtime's table."""

from __future__ import annotations

from typing import Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from services.runtime.errors import (
    INTERNAL,
    INTERNAL_MESSAGE,
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    TurnoutError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from turnout.v1.prediction_pb2 import CallError


class RouterFailed(TurnoutError):
    """The router failed in a way that has no class of its own (INTERNAL, UNKNOWN, …)."""

    code = INTERNAL


CALLERS_OWN: Final = (InvalidArgument, NotFound, AlreadyExists, Unauthenticated, PermissionDenied)
"""Errors that the caller must hear of: asking the rules instead would hide a mistake of the caller's."""

_CANCELLED: Final = 1
_CLASSES: Final[dict[int, type[TurnoutError]]] = {
    error.code: error
    for error in (
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        Unimplemented,
        Unavailable,
        Unauthenticated,
    )
}


class Failure(NamedTuple):
    """A call that was not answered. `sent`: the router may have seen it, and may have recorded a decision."""

    error: TurnoutError
    sent: bool


def error_of(code: int, message: str, field: str, retry_after_ms: int = 0) -> TurnoutError:
    """Gives the error of a canonical status code; one without a class of its own becomes RouterFailed."""
    if code == ResourceExhausted.code and retry_after_ms:
        return ResourceExhausted(field, message or INTERNAL_MESSAGE, retry_after_ms / 1000)
    if code == _CANCELLED:
        # Nobody here asked for it: a server that stops cancels the calls that it had not begun.
        return Unavailable(field, "the router cancelled the call")
    return _CLASSES.get(code, RouterFailed)(field, message or INTERNAL_MESSAGE)


def error_of_result(error: CallError) -> TurnoutError:
    """Gives the error of one call of a stream or one entry of a list."""
    return error_of(error.code, error.message, error.field, error.retry_after_ms)


def error_of_rpc(error: grpc.aio.AioRpcError) -> TurnoutError:
    """Gives the error of a call that ended with a status, its field from the google.rpc.BadRequest detail."""
    return error_of(error.code().value[0], error.details() or "", _field(error), _retry_after_ms(error))


def _retry_after_ms(error: grpc.aio.AioRpcError) -> int:
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after-ms" and str(value).isdecimal():
            return int(value)
    return 0


def _field(error: grpc.aio.AioRpcError) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                details = status_pb2.Status.FromString(value).details
                request = error_details_pb2.BadRequest()
                for detail in details:
                    if detail.Unpack(request) and request.field_violations:
                        return str(request.field_violations[0].field)
            except DecodeError:
                # The details are a courtesy; the code and the sentence stand without them.
                return ""
    return ""
