"""Waiting no longer than the caller does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from services.runtime.call import Call
from services.runtime.errors import DeadlineExceeded

_T = TypeVar("_T")


async def in_time(answer: Awaitable[_T], call: Call, *, longest_seconds: float) -> _T:
    """Waits for an answer at most as long as the caller does, and a given time at most.

    Raises:
        DeadlineExceeded: it took longer.
    """
    left = call.time_left()
    seconds = longest_seconds if left is None else max(0.0, min(left, longest_seconds))
    try:
        return await asyncio.wait_for(answer, seconds)
    except TimeoutError as error:
        raise DeadlineExceeded("", f"no answer within {seconds:.3f} s; look before you try again") from error
