"""Streams over HTTP: a line of JSON a message, or server-sent events, with heartbeats between.

Each message is `{"result": …}`; an error after the first one is a last `{"error": …}`. A heartbeat is an empty line, or
a comment of an event stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message
from starlette.datastructures import Headers

from services.runtime.errors import Unavailable
from services.runtime.transcoding.decoding import to_json

HEARTBEAT_SECONDS: Final = 15.0
STOPPING: Final = "the server stops; try again"
_FIRST_SECONDS: Final = 1.0
"""An error that comes so soon has a status of its own; after that the stream has begun."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a stream is written."""

    media_type: str
    prefix: str
    suffix: str
    heartbeat: str


LINES: Final = Form("application/x-ndjson", "", "\n", "\n")
EVENTS: Final = Form("text/event-stream", "data: ", "\n\n", ": heartbeat\n\n")


def form_of(headers: Headers) -> Form:
    """Gives server-sent events to who asks for them, lines of JSON to everybody else."""
    return EVENTS if EVENTS.media_type in headers.get("accept", "") else LINES


class Stream:
    """A handler's answers on their way; `end` must be called, however it ends."""

    def __init__(
        self,
        messages: AsyncIterator[Message],
        form: Form,
        visible: Callable[[Exception], dict[str, Any]],
        stopping: asyncio.Event,
    ) -> None:
        self.form = form
        self._messages, self._visible = messages, visible
        self._pending = asyncio.ensure_future(_next(messages))
        self._stopping = asyncio.ensure_future(stopping.wait())

    async def first(self) -> None:
        """Waits a moment for the first message.

        Raises:
            Exception: what the handler raises before it.
        """
        await asyncio.wait({self._pending}, timeout=_FIRST_SECONDS)
        if self._pending.done():
            self._pending.result()

    async def written(self) -> AsyncGenerator[str]:
        """Gives what to write, until the handler ends."""
        form = self.form
        try:
            while True:
                either = {self._pending, self._stopping}
                await asyncio.wait(either, timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if not self._pending.done():
                    if self._stopping.done():
                        raise Unavailable("", STOPPING)  # noqa: TRY301 - told as any other error
                    yield form.heartbeat
                    continue
                message = self._pending.result()
                if message is None:
                    return
                yield f'{form.prefix}{{"result":{to_json(message)}}}{form.suffix}'
                self._pending = asyncio.ensure_future(_next(self._messages))
        except Exception as error:  # noqa: BLE001 - the one boundary
            yield f"{form.prefix}{json.dumps(self._visible(error))}{form.suffix}"

    async def end(self) -> None:
        """Ends the handler, if it has not ended."""
        self._stopping.cancel()
        self._pending.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._pending
        if isinstance(self._messages, AsyncGenerator):
            await self._messages.aclose()


async def begin(
    messages: AsyncIterator[Message],
    form: Form,
    *,
    visible: Callable[[Exception], dict[str, Any]],
    stopping: asyncio.Event,
) -> Stream:
    """Begins a stream.

    Args:
        messages: the handler's answers.
        form: how they are written.
        visible: gives what a caller may see of an error.
        stopping: set when the server stops; ends the stream.

    Raises:
        Exception: what the handler raises before its first message.
    """
    stream = Stream(messages, form, visible, stopping)
    try:
        await stream.first()
    except BaseException:
        await stream.end()
        raise
    return stream


async def _next(messages: AsyncIterator[Message]) -> Message | None:
    return await anext(messages, None)
