"""An alert engine on a real database, with a clock that a test moves, and a web server that misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from monitoring.alerts.book import Rules
from monitoring.alerts.conditions import Condition, Verdict
from monitoring.alerts.engine import AlertEngine
from monitoring.alerts.kinds import DEFAULT_RULES, SECOND_US, AlertType, Severity
from monitoring.alerts.metrics import AlertMetrics
from monitoring.alerts.opening import open_alerts
from services.runtime.database import Database

START_US = 1_700_000_000 * SECOND_US


def a_condition(
    verdict: Verdict = Verdict.HOLDS,
    *,
    feature: str = "distance",
    severity: Severity | None = None,
    kind: AlertType = AlertType.FEATURE_DRIFT,
) -> Condition:
    labels = {"family": "dispatch", "feature": feature}
    return Condition(
        type=kind, labels=labels, verdict=verdict, severity=severity, summary="it moved", value=0.5, limit=0.1
    )


@dataclass
class Clock:
    """Microseconds since 1970, moved by the test."""

    now_us: int = START_US

    def __call__(self) -> int:
        return self.now_us

    def seconds(self) -> float:
        return self.now_us / SECOND_US

    def forward(self, seconds: float) -> None:
        self.now_us += int(seconds * SECOND_US)


_numbers = itertools.count()


async def an_engine(
    database: Database, clock: Clock, *, rules: Rules = DEFAULT_RULES, registry: CollectorRegistry | None = None
) -> AlertEngine:
    return await open_alerts(
        database,
        rules=lambda: rules,
        now_us=clock,
        new_id=lambda: f"{clock.now_us:020d}-{next(_numbers):06d}",
        metrics=AlertMetrics(registry or CollectorRegistry()),
    )


@dataclass
class Received:
    """One request that the web server got."""

    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class WebServer:
    """Takes POSTs and answers them as the test says: one answer after another, the last one for ever."""

    answers: list[Answer]
    url: str = ""
    received: list[Received] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.strip().split("\r\n")
                if not first.startswith("POST "):
                    # A stranger, who still looks for a server that had this port before.
                    break
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.received.append(Received(first.split()[1], headers, body))
                self.arrived.set()
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                await answer(writer)
        writer.close()


def status(code: int, *headers: str, body: bytes = b"") -> Answer:
    """An answer with this status."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {code} X", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return answer


async def hang(writer: asyncio.StreamWriter) -> None:
    """No answer at all."""
    await writer.wait_closed()


async def reset(writer: asyncio.StreamWriter) -> None:
    """The connection is cut."""
    writer.transport.abort()


async def endless(writer: asyncio.StreamWriter) -> None:
    """A success whose body does not end."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.transport.is_closing():
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()


@contextlib.asynccontextmanager
async def a_web_server(*answers: Answer) -> AsyncIterator[WebServer]:
    """A web server on a free loopback port."""
    web = WebServer(list(answers) or [status(200)])
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await web.handle(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    web.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield web
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
