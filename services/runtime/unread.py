"""Ends streams over gRPC that their callers do not read: the sending hangs then, and nothing else would end them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc

UNREAD_SECONDS: Final = 60.0
"""So long a caller may leave a message of a stream unread."""
_UNREAD: Final = "the answers were not read in time; ask again from the last one"
_ending: Final[set[asyncio.Task[None]]] = set()
"""The loop itself keeps no task alive."""


def end_if_unread(context: grpc.aio.ServicerContext[Any, Any]) -> asyncio.TimerHandle:
    """Has the call that this task serves ended in a minute, unless the handle is cancelled before."""
    serving = asyncio.current_task()
    assert serving is not None
    task = serving

    async def end() -> None:
        # The status waits behind what is unread, for a caller who reads on after all; the call's place is free at once.
        status = asyncio.ensure_future(context.abort(grpc.StatusCode.ABORTED, _UNREAD))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(status, return_exceptions=True)

    def begin() -> None:
        ending = asyncio.ensure_future(end())
        _ending.add(ending)
        ending.add_done_callback(_ending.discard)

    return asyncio.get_running_loop().call_later(UNREAD_SECONDS, begin)
