"""Shadows: variants that get copies of rows after the caller was answered, and whose answers are only compared.

A copy must never cost a caller anything: on the way to an answer there is one append to a list. All else happens a few
hundredths of a second later, a few rows at a time, and what does not fit into a shadow's queue is dropped and counted.
What a shadow answered is written to the journal, where there is room to spare, and so comes to stand in the ledger
beside the decision and its outcome.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import structlog

from bentos.family import Family
from router.answers import ModelAnswers
from router.asking import FROM_FAILURE
from router.backends.link import Link
from router.backends.results import Failure
from router.experiment_metrics import ExperimentMetrics
from router.journal import Journal
from router.resilience.reasons import Fallback
from router.shadow_records import Compared, Copy, records
from router.strategies.buckets import shadow_bucket
from router.strategies.hashing import salt_key

_log = structlog.get_logger(__name__)
PAUSE_SECONDS: Final = 0.05
"""How long copies wait before anything is done about them: the answers are gone by then, and copies share calls."""
MOST_OFFERED: Final = 4096
"""Rows that may wait for that."""
MOST_WAITING: Final = 1024
"""Rows that may wait for one shadow; more are dropped."""
MOST_ROWS: Final = 32
"""Rows that one call to a shadow carries; a shadow has one call under way."""
ANSWER_SECONDS: Final = 1.0
TOLERANCE: Final = 0.01
"""Part of the target's range that two answers may lie apart and still agree, in a family without levels."""


class Shadows:
    """Takes copies and asks the shadows. Everything in it is bounded, and nothing in it is awaited by a caller."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        journal: Journal,
        metrics: ExperimentMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._journal = journal
        self._metrics = metrics
        self._clock = clock
        self._offered: list[Copy] = []
        self._waiting: dict[tuple[str, str], deque[Copy]] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether any copy waits or is being answered."""
        return bool(self._offered or self._asking)

    def offer(self, copy: Copy) -> None:
        """Takes a copy, if there is room."""
        if len(self._offered) >= MOST_OFFERED:
            self._count(copy, "dropped")
            return
        self._offered.append(copy)
        if self._timer is None:
            self._timer = self._loop.call_later(PAUSE_SECONDS, self._sort)

    async def close(self) -> None:
        """Drops what waits and ends what is under way."""
        if self._timer is not None:
            self._timer.cancel()
        self._offered.clear()
        for waiting in self._waiting.values():
            waiting.clear()
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _count(self, copy: Copy, result: str) -> None:
        for variant in _shadows(copy):
            self._metrics.shadowed(copy.route.family.name, variant, result, 1)

    def _sort(self) -> None:
        """Deals the offered copies out to the shadows that they are meant for."""
        offered, self._offered, self._timer = self._offered, [], None
        for copy in offered:
            family = copy.route.family.name
            for variant, percent in _shadows(copy).items():
                key = salt_key(_salt(copy))
                if shadow_bucket(key, variant, copy.decision_id) >= round(percent * 100):
                    continue
                place = (family, variant)
                waiting = self._waiting.setdefault(place, deque())
                if len(waiting) >= MOST_WAITING:
                    self._metrics.shadowed(family, variant, "dropped", 1)
                    continue
                waiting.append(copy)
                if place not in self._asking:
                    self._begin(place)

    def _begin(self, place: tuple[str, str]) -> None:
        task = self._asking[place] = self._loop.create_task(self._ask_all(place))
        task.add_done_callback(lambda ended: self._ended(place, ended))

    def _ended(self, place: tuple[str, str], task: asyncio.Task[None]) -> None:
        del self._asking[place]
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("a shadow failed", family=place[0], variant=place[1], exc_info=failure)
        if self._waiting[place]:
            # A call broke before these, or they came since the last one: a queue that is full would stay so for ever.
            self._begin(place)
        else:
            # Shadows that are gone leave nothing behind.
            del self._waiting[place]

    async def _ask_all(self, place: tuple[str, str]) -> None:
        waiting = self._waiting[place]
        while waiting:
            copies = [waiting.popleft() for _ in range(min(len(waiting), MOST_ROWS))]
            await self._ask(place, copies)

    async def _ask(self, place: tuple[str, str], copies: list[Copy]) -> None:
        variant = place[1]
        route = copies[-1].route
        pool = route.pools.get(variant)
        began = self._clock()
        link = pool.choose(began) if pool is not None else None
        served = link.served if isinstance(link, Link) else None
        result = (
            await link.submit(b"".join([copy.packed for copy in copies]), len(copies), ANSWER_SECONDS)
            if isinstance(link, Link)
            else Failure.UNAVAILABLE
        )
        seconds = self._clock() - began
        if isinstance(result, Failure):
            failure, version = FROM_FAILURE[result], ""
            answers = [Compared(copy, None, agrees=False, failure=failure) for copy in copies]
        else:
            self._metrics.shadow_latency(*place, seconds)
            usable, version = ModelAnswers(route.family).usable, served.version if served is not None else ""
            answers = [_compared(route.family, copy, usable(value)) for copy, value in zip(copies, result, strict=True)]
        self._note(place, answers)
        written = records(route.family, variant, version, answers, latency_us=round(seconds * 1e6))
        if not self._journal.append_spare(written):
            self._metrics.shadowed(*place, "unrecorded", len(answers))

    def _note(self, place: tuple[str, str], answers: list[Compared]) -> None:
        results = Counter("failed" if one.value is None else "agrees" if one.agrees else "differs" for one in answers)
        for result, rows in results.items():
            self._metrics.shadowed(*place, result, rows)


def _compared(family: Family, copy: Copy, value: float | None) -> Compared:
    if value is None:
        return Compared(copy, None, agrees=False, failure=Fallback.INVALID)
    return Compared(copy, value, agrees=agree(family, copy.value, value), failure=Fallback.NONE)


def agree(family: Family, told: float, shadow: float) -> bool:
    """Tells whether a usable answer comes to the same: the same level or, without levels, 1 % of the range."""
    if family.levels:
        return family.level(told) == family.level(shadow)
    return abs(told - shadow) <= TOLERANCE * (family.target.high - family.target.low)


def _shadows(copy: Copy) -> dict[str, float]:
    experiments = copy.route.experiments
    snapshot = experiments.experiments.get(copy.experiment) if experiments is not None else None
    return snapshot.experiment.shadows if snapshot is not None else {}


def _salt(copy: Copy) -> str:
    experiments = copy.route.experiments
    return experiments.experiments[copy.experiment].experiment.salt if experiments is not None else ""
