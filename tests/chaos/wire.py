"""HTTP/2 as no client speaks it: frames made by hand, so that they may be wrong, late, or missing."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Gives an HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(method: str, *more: tuple[bytes, bytes]) -> bytes:
    """Gives the header block of a gRPC call: literal fields, nothing indexed (RFC 7541, section 6.2.2)."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    ]
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def message(content: bytes, *, compressed: bool = False) -> bytes:
    """Gives a gRPC message with its prefix."""
    return struct.pack(">BI", compressed, len(content)) + content


def bomb(megabytes: int) -> bytes:
    """Gives a gzip stream that is a thousand times larger inside."""
    return gzip.compress(bytes(megabytes << 20), 9)


def _text(value: bytes) -> bytes:
    # Integers with a 7-bit prefix (RFC 7541, section 5.1).
    length = len(value)
    if length < 127:
        return bytes([length]) + value
    head, rest = [127], length - 127
    while rest >= 128:
        head.append(rest % 128 + 128)
        rest //= 128
    return bytes([*head, rest]) + value


class Socket:
    """A connection on which anything may be sent; what comes back is read and thrown away, pings are answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.closed = asyncio.Event()
        self._reader, self._writer = reader, writer
        self._reading = asyncio.create_task(self._read())

    async def send(self, data: bytes) -> bool:
        """Sends; False when the other end has closed."""
        if self.closed.is_set():
            return False
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()
            return True
        return False

    async def close(self) -> None:
        """Closes at once."""
        self._reading.cancel()
        self._writer.transport.abort()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == PING and not head[4] & ACK:
                    self._writer.write(frame(PING, ACK, 0, payload))
                if head[3] == SETTINGS and not head[4] & ACK:
                    self._writer.write(frame(SETTINGS, ACK, 0, b""))
        except (OSError, asyncio.IncompleteReadError):
            self.closed.set()


async def connected(address: str, *, greeted: bool = True) -> Socket:
    """Opens a TCP or unix connection; with `greeted` says the preface and settings."""
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    socket = Socket(reader, writer)
    if greeted:
        await socket.send(PREFACE + frame(SETTINGS, 0, 0, b""))
    return socket
