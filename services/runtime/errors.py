"""Errors that a caller may see, and the one table that gives each its canonical gRPC status.

A domain raises one of these with one sentence that names the field and the limit. Anything else that escapes a
handler reaches the caller as INTERNAL with a constant text: an exception's own text never leaves the process.
"""

from __future__ import annotations

from typing import ClassVar, Final


class TurnoutError(Exception):
    """An error with a field (may be empty) and one sentence that is safe to show. `code` is the gRPC status number."""

    code: ClassVar[int]

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class InvalidArgument(TurnoutError):
    """The request itself is wrong."""

    code = 3


class DeadlineExceeded(TurnoutError):
    """The call came with no time left."""

    code = 4


class NotFound(TurnoutError):
    """The thing that was named does not exist."""

    code = 5


class AlreadyExists(TurnoutError):
    """The id is taken by something else."""

    code = 6


class PermissionDenied(TurnoutError):
    """The caller may not do this."""

    code = 7


class ResourceExhausted(TurnoutError):
    """A bound was reached; the caller may try again after `retry_after` seconds."""

    code = 8

    def __init__(self, field: str, message: str, retry_after: float = 0.1) -> None:
        super().__init__(field, message)
        self.retry_after = retry_after


class FailedPrecondition(TurnoutError):
    """The system is not in the state that this needs."""

    code = 9


class Aborted(TurnoutError):
    """The change was based on a revision that is no longer the newest."""

    code = 10


class Unimplemented(TurnoutError):
    """The server does not offer this."""

    code = 12


class Unavailable(TurnoutError):
    """Something that is needed is away; trying again may help."""

    code = 14


class Unauthenticated(TurnoutError):
    """The credential is missing or wrong."""

    code = 16


INTERNAL: Final = 13
INTERNAL_MESSAGE: Final = "internal error; the server's log has the details"
