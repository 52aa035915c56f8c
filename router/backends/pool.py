"""The backends of one variant: one link an address, each call to the open link with the fewest calls under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from router.backends.guard import DEFAULT_GUARD, GuardSettings
from router.backends.link import Link
from router.backends.multiplexed import MultiplexedLink
from router.backends.open_inference import OpenInferenceLink, Remote
from router.backends.results import Expectation
from router.resilience.allowance import HEDGE_SHARE, RETRY_SHARE, Allowance
from router.resilience.budget import LONGEST_DEADLINE_SECONDS
from router.resilience.reasons import Fallback

SUCCESSION_SECONDS: Final = 10.0
"""How long links to addresses that left the file serve on while none to a new address is open."""


class Pool:
    """All links of a variant. An address is given once each; links that are not open are passed over."""

    def __init__(
        self,
        addresses: Sequence[str],
        expected: Expectation,
        *,
        loop: asyncio.AbstractEventLoop,
        jitter: Callable[[], float],
        guard: GuardSettings = DEFAULT_GUARD,
        scales_to_zero: bool = False,
        remote: Remote | None = None,
    ) -> None:
        """Starts a link to each address; `remote` is what is asked of servers that speak the open protocol."""
        self.remote = remote
        self.addresses = tuple(addresses)
        self._expected = expected
        self._loop = loop
        self._jitter = jitter
        self._guard = guard
        self._absent = Fallback.COLD_START if scales_to_zero else Fallback.UNAVAILABLE
        self._running: dict[Link, asyncio.Task[None]] = {}
        for address in self.addresses:
            self._start(self._link(address))
        self.links = tuple(self._running)
        """Links to the configured addresses."""
        self._leaving: tuple[Link, ...] = ()
        self._succession: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self.retries = Allowance(RETRY_SHARE)
        """Extra attempts of any kind, hedges included."""
        self.hedges = Allowance(HEDGE_SHARE)

    def _link(self, address: str) -> Link:
        if self.remote is None:
            return MultiplexedLink(address, self._expected, loop=self._loop, jitter=self._jitter, guard=self._guard)
        return OpenInferenceLink(
            address, self._expected, loop=self._loop, jitter=self._jitter, guard=self._guard, remote=self.remote
        )

    def _start(self, link: Link) -> None:
        self._running[link] = self._loop.create_task(link.run())

    def configure(self, guard: GuardSettings, *, scales_to_zero: bool) -> None:
        """Takes other settings; links stay as they are."""
        self._guard = guard
        self._absent = Fallback.COLD_START if scales_to_zero else Fallback.UNAVAILABLE
        for link in self.links:
            link.configure(guard)

    def move(self, addresses: Sequence[str]) -> None:
        """Goes over to other addresses without a gap.

        Links to addresses that stay are kept. Those that leave serve on until a new one is open, and are closed once
        their calls under way are answered.
        """
        self.addresses = tuple(addresses)
        kept = {link.address: link for link in self.links}
        fresh = []
        for address in self.addresses:
            link = kept.pop(address, None)
            if link is None:
                link = self._link(address)
                self._start(link)
            fresh.append(link)
        self.links = tuple(fresh)
        self._leaving = (*self._leaving, *kept.values())
        if self._succession is not None:
            self._succession.cancel()
        self._succession = self._loop.create_task(self._succeed())

    async def _succeed(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SUCCESSION_SECONDS):
                await _first([self._loop.create_task(link.opened.wait()) for link in self.links])
        leaving, self._leaving = self._leaving, ()
        for link in leaving:
            # Tasks of their own: the next move must not cut these off.
            ending = self._loop.create_task(self._end(link, LONGEST_DEADLINE_SECONDS))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    @property
    def starts_when_called(self) -> bool:
        """Whether the variant scales to zero: that no link is open says nothing about it."""
        return self._absent is Fallback.COLD_START

    def pick(self) -> Link | None:
        """Gives the open link with the fewest calls under way, whatever its guard says; None when no link is open."""
        best = None
        for link in self.links or self._leaving:
            if link.served is not None and (best is None or link.in_flight < best.in_flight):
                best = link
        return best

    def choose(self, now: float, other_than: Link | None = None) -> Link | Fallback:
        """Gives the link that the next call goes to, or why there is none."""
        best = None
        why = self._absent
        for link in self.links:
            if link.served is None or link is other_than:
                continue
            guard = link.guard
            in_flight = link.in_flight
            if in_flight >= guard.limit:
                why = Fallback.CONCURRENCY
            elif not guard.ready(now):
                why = Fallback.BREAKER_OPEN if why is self._absent else why
            elif best is None or in_flight < best.in_flight:
                best = link
        if best is None and self._leaving:
            for link in self._leaving:
                if link.served is not None and link is not other_than and link.guard.ready(now):
                    return link
        return why if best is None else best

    async def close(self, drain_seconds: float = 0.0) -> None:
        """Ends all links. Calls under way may take so long to finish; what is left gets Failure.CONNECTION."""
        if self._succession is not None:
            self._succession.cancel()
        await asyncio.gather(*(self._end(link, drain_seconds) for link in list(self._running)))

    async def _end(self, link: Link, drain_seconds: float) -> None:
        if drain_seconds:
            await link.drained(drain_seconds)
        task = self._running.pop(link, None)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _first(waiting: list[asyncio.Task[bool]]) -> None:
    """Waits for the first of them and leaves none behind."""
    try:
        if waiting:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
