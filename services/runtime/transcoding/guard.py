"""What a request must be like before anybody looks at its content: who sent it, how large it is, how long it may take.

A browser can be made to send requests to a server on loopback. So Host must be a name of ours (which keeps DNS
rebinding out), Origin, where a browser sends one, must be that same host, and a body must be JSON, which a page cannot
send to another origin without asking first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

from google.rpc import code_pb2
from starlette.datastructures import Headers

from services.runtime.errors import InvalidArgument, PermissionDenied
from services.runtime.transcoding.errors import Refused

MAX_BODY_BYTES: Final = 1 << 20
LONGEST_SECONDS: Final = 30.0
DEADLINE: Final = "turnout-timeout-ms"
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
JSON: Final = "application/json"


def check_origin(headers: Headers, hosts: frozenset[str]) -> None:
    """Refuses a request that was not meant for this server, or that another site's page sent.

    Raises:
        PermissionDenied: says which header.
    """
    host = headers.get("host", "")
    if _name(host) not in hosts:
        raise PermissionDenied("", "this server is not known by that Host; see hub.http_hosts")
    origin = headers.get("origin")
    if origin is not None and not _same_host(origin, host):
        raise PermissionDenied("", "requests of other sites' pages are refused: Origin must be this server")
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise PermissionDenied("", "requests of other sites' pages are refused")


def check_json(headers: Headers) -> None:
    """Refuses a body that is not declared as JSON in UTF-8.

    Raises:
        Refused: it is declared as something else, or as nothing.
    """
    kind, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != JSON or charset not in {"", "utf-8"}:
        raise Refused(415, code_pb2.INVALID_ARGUMENT, "Content-Type must be application/json")


async def read_body(chunks: AsyncIterator[bytes], declared: str | None) -> bytes:
    """Reads a body of at most 1 MiB.

    Raises:
        Refused: it is larger.
    """
    too_large = Refused(413, code_pb2.RESOURCE_EXHAUSTED, f"a body has at most {MAX_BODY_BYTES} bytes")
    if declared is not None and declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise too_large
    return bytes(body)


def deadline_seconds(headers: Headers) -> float:
    """Gives how long the caller waits: the header `Turnout-Timeout-Ms`, else 30 s, which is also the most.

    Raises:
        InvalidArgument: the header is no whole number from 1 on.
    """
    text = headers.get(DEADLINE)
    if text is None:
        return LONGEST_SECONDS
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= 1):
        raise InvalidArgument(DEADLINE, f"{DEADLINE} must be a whole number of milliseconds from 1 on")
    return min(int(text) / 1000, LONGEST_SECONDS)


def _name(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _same_host(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and parts.netloc.lower() == host.lower()
