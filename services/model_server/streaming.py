"""Results of one inference stream on their way back: all that are ready together share one frame."""

from __future__ import annotations

import asyncio
from typing import Final

from turnout.v1.model_pb2 import InferFailure, InferStreamResponse

_MAX_UNSENT_BYTES: Final = 4 << 20
"""Results that a slow reader may leave lying before no more of its frames are read."""
_FAILURE_BYTES: Final = 128


class Results:
    """Collects the results of a stream's calls (a batcher's Sink) and gives them out in frames.

    One coroutine takes frames with `next_frame`, another may wait with `room` before it accepts more calls.
    """

    __slots__ = (
        "_calls",
        "_failures",
        "_ids",
        "_input_ended",
        "_loop",
        "_parts",
        "_room",
        "_rows",
        "_unsent",
        "_wake",
        "closed",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.closed = False
        self._loop = loop
        self._calls = 0
        self._ids: list[int] = []
        self._rows: list[int] = []
        self._parts: list[bytes] = []
        self._failures: list[InferFailure] = []
        self._unsent = 0
        self._input_ended = False
        self._wake: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    def expect(self, calls: int) -> None:
        """Announces calls whose results will come."""
        self._calls += calls

    def answer(self, call_id: int, rows: int, output: bytes) -> None:
        """Takes a result."""
        self._calls -= 1
        self._ids.append(call_id)
        self._rows.append(rows)
        self._parts.append(output)
        self._unsent += len(output)
        if self._wake is not None:
            self._awake()

    def fail(self, call_id: int, code: int, message: str) -> None:
        """Takes a failure."""
        self._calls -= 1
        self._failures.append(InferFailure(call_id=call_id, code=code, message=message))
        self._unsent += _FAILURE_BYTES
        if self._wake is not None:
            self._awake()

    def end_input(self) -> None:
        """Says that no more calls will come: the frames end after the last result."""
        self._input_ended = True
        if self._wake is not None:
            self._awake()

    async def room(self) -> None:
        """Waits while the reader at the other end leaves too many results lying."""
        while self._unsent > _MAX_UNSENT_BYTES:
            self._room = self._loop.create_future()
            await self._room

    async def next_frame(self) -> InferStreamResponse | None:
        """Waits for results and gives all that are there; None when all calls were answered and no more will come."""
        while not self._ids and not self._failures:
            if self._input_ended and self._calls == 0:
                return None
            self._wake = self._loop.create_future()
            await self._wake
        parts = self._parts
        frame = InferStreamResponse(
            call_ids=self._ids,
            rows=self._rows,
            tensor=parts[0] if len(parts) == 1 else b"".join(parts),
            failures=self._failures,
        )
        self._ids, self._rows, self._parts, self._failures = [], [], [], []
        self._unsent = 0
        if self._room is not None:
            _resolve(self._room)
            self._room = None
        return frame

    def _awake(self) -> None:
        if self._wake is not None:
            _resolve(self._wake)
            self._wake = None


def _resolve(future: asyncio.Future[None]) -> None:
    # Whoever waited may have been cancelled in this very turn of the loop.
    if not future.done():
        future.set_result(None)
