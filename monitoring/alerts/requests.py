"""Fields of requests about alerts: read, bounded, or refused with a sentence."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from monitoring.alerts import messages
from monitoring.alerts.reading import Filter
from services.runtime.errors import InvalidArgument
from services.runtime.identifiers import check_text
from turnout.v1 import monitoring_pb2

DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1000
_MAX_FAMILY: Final = 64


def check_why(why: str) -> None:
    """Refuses a change without a reason.

    Raises:
        InvalidArgument: names why.
    """
    check_text("why", why)
    if not why.strip() or "\0" in why:
        raise InvalidArgument("why", "why must say why")


def read_filter(request: monitoring_pb2.ListAlertsRequest) -> Filter:
    """Reads which alerts are asked for.

    Raises:
        InvalidArgument: names the field that is out of bounds.
    """
    check_family(request.family)
    if request.since_unix_us < 0:
        raise InvalidArgument("since_unix_us", "since_unix_us must be at least 0")
    return Filter(
        history=request.history,
        family=request.family,
        types=tuple(messages.read_type(number, "types") for number in request.types),
        min_severity=messages.read_severity(request.min_severity, "min_severity"),
        states=messages.read_states(request.states),
        since_us=request.since_unix_us,
    )


def read_page_size(size: int) -> int:
    """Reads a page's size.

    Raises:
        InvalidArgument: it is over 1 000.
    """
    if size > MAX_PAGE:
        raise InvalidArgument("page_size", f"page_size must be at most {MAX_PAGE}")
    return size or DEFAULT_PAGE


def make_token(started_at_us: int, alert_id: str) -> str:
    """Gives the token of the page after this alert."""
    return base64.urlsafe_b64encode(f"{started_at_us}:{alert_id}".encode()).decode()


def read_token(token: str) -> tuple[int, str] | None:
    """Reads what `make_token` gave; None for the first page.

    Raises:
        InvalidArgument: it is not one.
    """
    if not token:
        return None
    try:
        started, _, alert_id = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode().partition(":")
        position = int(started), alert_id
    except (binascii.Error, ValueError):
        raise InvalidArgument("page_token", "page_token must be one that a page gave") from None
    if not 0 <= position[0] < 2**63 or "\0" in alert_id:
        raise InvalidArgument("page_token", "page_token must be one that a page gave")
    return position


def check_id(text: str) -> None:
    """Refuses what cannot be an id.

    Raises:
        InvalidArgument: names id.
    """
    if not text or len(text) > 64 or not text.isascii() or not text.isprintable():
        raise InvalidArgument("id", "id must be 1 to 64 printable ASCII characters")


def check_family(family: str) -> None:
    """Refuses what cannot be a family's name.

    Raises:
        InvalidArgument: names family.
    """
    if len(family) > _MAX_FAMILY or "\0" in family:
        raise InvalidArgument("family", f"family must be at most {_MAX_FAMILY} characters")
