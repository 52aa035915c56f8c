"""The application: every method of the bound services over HTTP/JSON, with the identity and the limits of gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as WebRoute
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from services.runtime.errors import DeadlineExceeded, ResourceExhausted, TurnoutError, Unavailable
from services.runtime.grpc_binding import Admission, snake_case
from services.runtime.transcoding.decoding import from_json, from_query, to_json
from services.runtime.transcoding.errors import Refused, body_of, error_body
from services.runtime.transcoding.guard import LOOPBACK, check_json, check_origin, deadline_seconds, read_body
from services.runtime.transcoding.metrics import HttpMetrics
from services.runtime.transcoding.openapi import document
from services.runtime.transcoding.routes import Bound, Route, routes_of
from services.runtime.transcoding.streaming import STOPPING, Stream, begin, form_of
from services.runtime.unread import UNREAD_SECONDS

OPENAPI: Final = "/openapi.json"
LIVE: Final = "/livez"
_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
_MORE_HEADERS: Final = {
    401: {"www-authenticate": "Bearer"},
    405: {"allow": "GET, POST"},
    429: {"retry-after": "1"},
    503: {"retry-after": "1"},
}
_log: Final[Any] = structlog.get_logger(__name__)


class HttpCall:
    """A Call on top of a request."""

    __slots__ = ("_deadline", "peer", "tenant")

    def __init__(self, tenant: str, peer: str, deadline: float | None) -> None:
        self.tenant, self.peer, self._deadline = tenant, peer, deadline

    def time_left(self) -> float | None:
        """Seconds until the caller's deadline; None for a stream without one."""
        return None if self._deadline is None else self._deadline - asyncio.get_running_loop().time()


def transcoder(
    services: Sequence[Bound],
    *,
    title: str,
    hosts: frozenset[str] = frozenset(),
    stopping: asyncio.Event,
    metrics: HttpMetrics,
) -> Starlette:
    """Gives the application.

    Args:
        services: what is offered, with the identity and the admission that gRPC uses too.
        title: of the OpenAPI document.
        hosts: names by which this server is known, besides those of loopback, in lower case.
        stopping: set when the server stops, see `http_serving`: new calls are refused then, and streams end.
        metrics: what Prometheus is told.

    Raises:
        AttributeError: an implementation lacks a method.
        ValueError: two methods would have the same path.
    """
    routes = routes_of(services)
    known = hosts | LOOPBACK
    published = json.dumps(document(routes, title=title), ensure_ascii=False, separators=(",", ":")).encode()

    async def openapi(request: Request) -> Response:
        return _guarded(request, known) or Response(published, media_type="application/json", headers=_HEADERS)

    async def live(_: Request) -> Response:
        # Says that the process answers, and depends on nothing else.
        return Response('{"live":true}', media_type="application/json", headers=_HEADERS)

    web = [WebRoute(OPENAPI, openapi, methods=["GET"]), WebRoute(LIVE, live, methods=["GET"])]
    for route in routes:
        endpoint = _Endpoint(route, known, stopping, metrics)
        web.append(WebRoute(route.post, endpoint.post, methods=["POST"]))
        if route.get is not None:
            web.append(WebRoute(route.get, endpoint.get, methods=["GET"]))
    return Starlette(routes=web, exception_handlers={HTTPException: _unknown, Exception: _broken})


class _Endpoint:
    """One method."""

    def __init__(self, route: Route, hosts: frozenset[str], stopping: asyncio.Event, metrics: HttpMetrics) -> None:
        self._metrics = metrics
        self._bound, self._method, self._hosts, self._stopping = route.bound, route.method, hosts, stopping
        self._function = getattr(route.bound.implementation, snake_case(route.method.name))
        self._request_type = GetMessageClass(route.method.input_type)
        self._gate = route.bound.room_of(route.method)

    async def post(self, request: Request) -> Response:
        async def decode() -> Message:
            check_json(request.headers)
            body = await read_body(request.stream(), request.headers.get("content-length"))
            return from_json(body, self._request_type())

        return await self._answer(request, decode)

    async def get(self, request: Request) -> Response:
        async def decode() -> Message:
            return from_query(request.query_params.multi_items(), self._request_type())

        return await self._answer(request, decode)

    async def _answer(self, request: Request, decode: Callable[[], Awaitable[Message]]) -> Response:
        loop = asyncio.get_running_loop()
        began = loop.time()
        response = await self._guarded_call(request, decode)
        names = self._bound.service.name, self._method.name
        self._metrics.answered(*names, response.status_code, loop.time() - began)
        return response

    async def _guarded_call(self, request: Request, decode: Callable[[], Awaitable[Message]]) -> Response:
        gate = self._gate
        try:
            check_origin(request.headers, self._hosts)
            self._check_room()
        except TurnoutError as error:
            return _failed(error)
        gate.under_way += 1
        try:
            return await self._call(request, decode)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:  # noqa: BLE001 - the one boundary
            return _failed(error)
        finally:
            gate.under_way -= 1

    def _check_room(self) -> None:
        if self._stopping.is_set():
            raise Unavailable("", STOPPING)
        if self._gate.under_way >= self._gate.limit:
            raise ResourceExhausted("", "the server has too many calls under way; try again")

    async def _call(self, request: Request, decode: Callable[[], Awaitable[Message]]) -> Response:
        tenant = self._bound.identify(request.headers.get("authorization"))
        seconds = deadline_seconds(request.headers)
        deadline = asyncio.get_running_loop().time() + seconds
        message = await _within(seconds, decode())
        peer = f"{request.client.host}:{request.client.port}" if request.client else ""
        if self._method.server_streaming:
            answers = self._function(message, HttpCall(tenant, peer, None))
            stream = await begin(answers, form_of(request.headers), visible=_visible, stopping=self._stopping)
            return _StreamResponse(stream, self._gate, self._metrics)
        reply = await _within(seconds, self._function(message, HttpCall(tenant, peer, deadline)))
        return Response(to_json(reply), media_type="application/json", headers=_HEADERS)


class _StreamResponse(StreamingResponse):
    """A stream that counts as under way, and whose handler is ended, however the connection ends."""

    def __init__(self, stream: Stream, gate: Admission, metrics: HttpMetrics) -> None:
        super().__init__(stream.written(), media_type=stream.form.media_type, headers=_HEADERS)
        self._stream, self._gate, self._metrics = stream, gate, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: AsgiMessage) -> None:
            # Who does not read has the sending hang: nothing else would end the stream.
            async with asyncio.timeout(UNREAD_SECONDS):
                await send(message)

        self._gate.under_way += 1
        self._metrics.stream_opened()
        try:
            with contextlib.suppress(TimeoutError):
                await super().__call__(scope, receive, send_in_time)
        finally:
            self._gate.under_way -= 1
            self._metrics.stream_closed()
            await self._stream.end()


async def _within(seconds: float, answer: Awaitable[Message]) -> Message:
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise DeadlineExceeded("", f"not done within {seconds:.3f} s") from None


def _guarded(request: Request, hosts: frozenset[str]) -> Response | None:
    try:
        check_origin(request.headers, hosts)
    except TurnoutError as error:
        return _failed(error)
    return None


def _visible(error: Exception) -> dict[str, Any]:
    if not isinstance(error, TurnoutError | Refused):
        _log.error("handler failed", exc_info=error)
    return body_of(error)


def _failed(error: Exception) -> Response:
    return _refusal(_visible(error))


def _refusal(body: dict[str, Any]) -> Response:
    headers = {**_HEADERS, **_MORE_HEADERS.get(body["error"]["code"], {})}
    return Response(json.dumps(body), body["error"]["code"], headers, media_type="application/json")


async def _unknown(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        sentence = "this path has another method: POST with a JSON body, or GET for the readable form"
        return _refusal(error_body(code_pb2.UNIMPLEMENTED, sentence, http=405))
    return _refusal(error_body(code_pb2.NOT_FOUND, f"there is nothing at this path; {OPENAPI} says what there is"))


async def _broken(_: Request, error: Exception) -> Response:
    return _failed(error)
