"""Errors over HTTP: the canonical code's status, and a body in the form of google.rpc.Status. No exception's text."""

from __future__ import annotations

from typing import Any, Final

from google.rpc import code_pb2

from services.runtime.errors import INTERNAL, INTERNAL_MESSAGE, TurnoutError

HTTP_STATUS: Final = {
    code_pb2.CANCELLED: 499,
    code_pb2.UNKNOWN: 500,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.DEADLINE_EXCEEDED: 504,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.ABORTED: 409,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.INTERNAL: 500,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DATA_LOSS: 500,
    code_pb2.UNAUTHENTICATED: 401,
}
"""By canonical code, as google/rpc/code.proto maps them."""
_RETRY_SECONDS: Final = 0.1


class Refused(Exception):
    """A request that HTTP itself has a status for; `code` is the canonical one beside it."""

    def __init__(self, http: int, code: int, message: str) -> None:
        super().__init__(message)
        self.http, self.code, self.message = http, code, message


def error_body(code: int, message: str, field: str = "", *, http: int | None = None) -> dict[str, Any]:
    """Gives the body of an error: `{"error": {"code": …, "status": …, "message": …, "details": […]}}`.

    Args:
        code: the canonical code's number; `status` is its name.
        message: one sentence that is safe to show.
        field: the field at fault; "" where there is none.
        http: the HTTP status, where it is more exact than the canonical code's.
    """
    details: list[dict[str, Any]] = []
    if field:
        violation = {"field": field, "description": message}
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]})
    if code == code_pb2.RESOURCE_EXHAUSTED:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{_RETRY_SECONDS}s"})
    status = code_pb2.Code.Name(code_pb2.Code.ValueType(code))
    return {"error": {"code": http or HTTP_STATUS[code], "status": status, "message": message, "details": details}}


def body_of(error: Exception) -> dict[str, Any]:
    """Gives the body for what escaped a handler: a domain error's own sentence, else a constant one."""
    if isinstance(error, Refused):
        return error_body(error.code, error.message, http=error.http)
    if isinstance(error, TurnoutError):
        return error_body(error.code, error.message, error.field)
    return error_body(INTERNAL, INTERNAL_MESSAGE)
