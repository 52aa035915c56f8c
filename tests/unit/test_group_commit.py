"""The committing thread ends whenever it is asked to, whatever it is doing at that moment."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from router.group_commit import GroupCommit


class LateEvent(threading.Event):
    """An event during whose first `clear` somebody else does something."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self._meanwhile: Callable[[], None] | None = meanwhile

    def clear(self) -> None:
        if self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        super().clear()


async def test_an_end_asked_for_between_two_steps_of_the_thread_is_heard() -> None:
    """The request comes just before the thread clears its events: it must not be cleared away."""
    commit = GroupCommit(lambda: None, urgent=lambda: False, failed=lambda _: None)
    reached, ended = threading.Event(), threading.Event()

    def stand_still() -> None:
        reached.set()
        ended.wait(20)

    commit._hurry = LateEvent(stand_still)

    async def run() -> None:
        async with commit.running():
            commit.mark()
            assert await asyncio.to_thread(reached.wait, 20)
            # What the end of the block does first; then the thread goes on.
            commit._stopping = True
            commit._hurry.set()
            commit._dirty.set()
            ended.set()

    async with asyncio.timeout(30):
        await run()


async def test_waiters_hear_of_success_failure_and_patience() -> None:
    """True after a synchronisation, False after a failed one, and False when it takes too long."""
    errors: list[OSError | None] = [None, OSError(5, "Input/output error"), None]
    failures: list[OSError] = []
    commit = GroupCommit(lambda: errors.pop(0) if errors else None, urgent=lambda: False, failed=failures.append)
    nobody = GroupCommit(lambda: None, urgent=lambda: False, failed=failures.append)
    assert not await nobody.wait(0.01)
    async with commit.running():
        assert await commit.wait(20)
        assert not await commit.wait(20)
        assert await commit.wait(20)
    assert len(failures) == 1


@pytest.mark.parametrize("marks", [0, 1, 50])
async def test_it_starts_and_ends_without_work_and_with(marks: int) -> None:
    """Any number of times."""
    done = 0

    def synchronise() -> None:
        nonlocal done
        done += 1

    for _ in range(20):
        commit = GroupCommit(synchronise, urgent=lambda: False, failed=lambda _: None)
        async with commit.running():
            for _number in range(marks):
                commit.mark()
                await asyncio.sleep(0)
    assert done <= 20 * marks
