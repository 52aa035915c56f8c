"""The backends of one variant: one link an address, each call to the open link with the fewest calls under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from router.backends.link import Expectation, Link


class Pool:
    """All links of a variant. An address is given once each; links that are not open are passed over."""

    def __init__(
        self,
        addresses: Sequence[str],
        expected: Expectation,
        *,
        loop: asyncio.AbstractEventLoop,
        jitter: Callable[[], float],
    ) -> None:
        self.addresses = tuple(addresses)
        self._links = [Link(address, expected, loop=loop, jitter=jitter) for address in self.addresses]
        self._tasks = [loop.create_task(link.run()) for link in self._links]

    def pick(self) -> Link | None:
        """Gives the open link with the fewest calls under way; None when no link is open."""
        best = None
        for link in self._links:
            if link.served is not None and (best is None or link.in_flight < best.in_flight):
                best = link
        return best

    async def close(self) -> None:
        """Ends all links; calls under way get Failure.CONNECTION."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
