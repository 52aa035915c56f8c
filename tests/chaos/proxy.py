"""A fault proxy: stands between a router and a backend on unix sockets, and does to their bytes what networks do."""

from __future__ import annotations

import asyncio
import contextlib
import random
from enum import Enum
from pathlib import Path

_CHUNK = 64 << 10
LATENCY_SECONDS = 0.4
DRIP_SECONDS = 0.02


class Fault(Enum):
    """What happens to the bytes."""

    NONE = "none"
    LATENCY = "latency"
    """Answers come 400 ms late."""
    BLACK_HOLE = "black hole"
    """Nothing arrives on either side; connections stay open, new ones are taken."""
    RESET = "reset"
    """Connections break, and so does every new one."""
    HALF_OPEN = "half-open"
    """Requests arrive, answers do not; and who has gone is not told."""
    GARBAGE = "garbage"
    """Answers are replaced with random bytes."""
    SLOW_DRIP = "slow drip"
    """Answers come one byte every 20 ms."""
    REFUSED = "refused"
    """Nobody listens."""


class Proxy:
    """The proxy. `fault` may be changed at any time; it holds for connections that are open, too."""

    def __init__(self, listen: Path, target: Path, chance: random.Random) -> None:
        self.listen, self.target = listen, target
        self.fault = Fault.NONE
        self._chance = chance
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens."""
        self.listen.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._connected, str(self.listen))

    async def set(self, fault: Fault) -> None:
        """Begins a fault, or ends it; what a fault broke stays broken until somebody connects anew."""
        before, self.fault = self.fault, fault
        if fault is Fault.REFUSED:
            await self._close_server()
            self.listen.unlink(missing_ok=True)
        elif before is Fault.REFUSED:
            await self.start()
        if fault in (Fault.RESET, Fault.REFUSED) or (
            fault is Fault.NONE and before in (Fault.GARBAGE, Fault.HALF_OPEN, Fault.BLACK_HOLE)
        ):
            self._abort_all()

    async def close(self) -> None:
        """Ends everything."""
        await self._close_server()
        self._abort_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _abort_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fault is Fault.RESET:
            writer.transport.abort()
            return
        try:
            upstream_reader, upstream_writer = await asyncio.open_unix_connection(str(self.target))
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, upstream_writer}
        up = asyncio.create_task(self._pump(reader, upstream_writer, answers=False))
        down = asyncio.create_task(self._pump(upstream_reader, writer, answers=True))
        self._tasks |= {up, down}
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        while self.fault in (Fault.HALF_OPEN, Fault.BLACK_HOLE) and not writer.is_closing():
            await asyncio.sleep(0.05)
        for task, end in ((up, upstream_writer), (down, writer)):
            task.cancel()
            end.transport.abort()
            self._tasks.discard(task)
            self._writers.discard(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                for part in await self._changed(data, answers=answers):
                    writer.write(part)
                    await writer.drain()
                    if self.fault is Fault.SLOW_DRIP and answers:
                        await asyncio.sleep(DRIP_SECONDS)

    async def _changed(self, data: bytes, *, answers: bool) -> list[bytes]:
        match self.fault:
            case Fault.NONE | Fault.RESET | Fault.REFUSED:
                return [data]
            case Fault.LATENCY:
                if answers:
                    await asyncio.sleep(LATENCY_SECONDS)
                return [data]
            case Fault.BLACK_HOLE:
                return []
            case Fault.HALF_OPEN:
                return [] if answers else [data]
            case Fault.GARBAGE:
                return [self._chance.randbytes(len(data))] if answers else [data]
            case Fault.SLOW_DRIP:
                return [data[place : place + 1] for place in range(len(data))] if answers else [data]
