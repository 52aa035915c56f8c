"""Connections over HTTP that say nothing, or never come to an end, keep nobody out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.runtime.transcoding.serving import http_serving

WHOLE = b"GET /here HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def _here(_: Request) -> Response:
    return Response("here")


@contextlib.asynccontextmanager
async def _served(seconds: float, *, crowded: int = 192) -> AsyncIterator[tuple[str, int]]:
    app, stopping = Starlette(routes=[Route("/here", _here)]), asyncio.Event()
    serving = http_serving(app, "127.0.0.1:0", stopping=stopping, request_seconds=seconds, crowded=crowded)
    async with serving as address:
        host, _, port = address.rpartition(":")
        yield host, int(port)


async def _answer(where: tuple[str, int]) -> bytes:
    reader, writer = await asyncio.open_connection(*where)
    writer.write(WHOLE)
    line = await reader.readline()
    writer.close()
    return line


@pytest.mark.parametrize("begun", [b"", b"GET /here HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", WHOLE + b"GET /he"])
async def test_a_connection_without_a_whole_request_is_ended(begun: bytes) -> None:
    """Whether nothing came, half of a request, or half of a second one."""
    async with asyncio.timeout(10), _served(0.2) as where:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(begun)
        with contextlib.suppress(ConnectionError):
            assert (await reader.read()).startswith(b"HTTP/1.1 200" if begun.startswith(WHOLE) else b"")
        assert reader.at_eof()
        writer.close()


async def test_a_crowd_that_says_nothing_gives_way() -> None:
    """With more silent connections than may be open at all, a caller is still answered."""
    async with asyncio.timeout(20), _served(60.0) as where:
        silent = [await asyncio.open_connection(*where) for _ in range(300)]
        assert await _answer(where) == b"HTTP/1.1 200 OK\r\n"
        for _, writer in silent:
            writer.close()


async def test_a_connection_that_is_answered_does_not_give_way() -> None:
    """Only who waits for a request is ended for a newcomer, the longest waiting first."""
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Response:
        asked.set()
        await answered.wait()
        return Response("slow")

    app, stopping = Starlette(routes=[Route("/here", _here), Route("/slow", slow)]), asyncio.Event()
    async with asyncio.timeout(10), http_serving(app, "127.0.0.1:0", stopping=stopping, crowded=2) as address:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(WHOLE.replace(b"/here", b"/slow"))
        await asked.wait()
        oldest, keeps = await asyncio.open_connection(host, int(port))
        assert await _answer((host, int(port))) == b"HTTP/1.1 200 OK\r\n"
        with contextlib.suppress(ConnectionError):
            assert await oldest.read() == b""
        answered.set()
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        keeps.close()
        writer.close()
