"""Nobody waits longer than the caller does, nor longer than the service lets anybody wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from services.runtime.deadlines import in_time
from services.runtime.errors import DeadlineExceeded


@dataclass(frozen=True)
class _Caller:
    left: float | None
    tenant: str = "default"
    peer: str = "test"

    def metadata(self) -> dict[str, str]:
        return {}

    def time_left(self) -> float | None:
        return self.left


async def _never(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("ended")


@pytest.mark.parametrize(("left", "longest"), [(0.01, 30.0), (None, 0.01), (30.0, 0.01), (-1.0, 30.0)])
async def test_what_takes_longer_is_left_and_told(left: float | None, longest: float) -> None:
    """The shorter of the two times counts, and a caller whose time is over is told so at once."""
    ended: list[str] = []
    with pytest.raises(DeadlineExceeded, match="look before you try again"):
        await in_time(_never(ended), _Caller(left), longest_seconds=longest)
    assert ended == ([] if left == -1.0 else ["ended"])


@pytest.mark.parametrize("left", [None, 30.0])
async def test_answers_in_time_are_given(left: float | None) -> None:
    """With a deadline of the caller's and without one."""

    async def answer() -> int:
        return 7

    assert await in_time(answer(), _Caller(left), longest_seconds=30.0) == 7
