"""Sends the whole set to every router that watches: at once, after each change, and a heartbeat in between.

Nothing is queued: a watcher that is slow finds the newest set when it is ready for one, and those between are left
out. A watcher that does not acknowledge a set in time, or that its name is taken over from, is dropped; it comes back
by itself if it is alive.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from services.control.metrics import ControlMetrics
from services.control.routers import Routers
from services.runtime.call import Call
from services.runtime.errors import (
    Aborted,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    TurnoutError,
    Unavailable,
)
from services.runtime.experiment import Experiment
from services.runtime.experiment_messages import experiment_to_message, layer_to_message
from services.runtime.experiment_set import ExperimentSet
from services.runtime.identifiers import MAX_TEXT, is_id
from turnout.v1 import experiment_pb2

MAX_WATCHERS: Final = 256
MAX_READY: Final = 4096
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long is waited, in seconds."""

    heartbeat: float = 1.0
    hello: float = 5.0
    """For a watcher's first message."""
    acknowledgement: float = 10.0


@dataclass(frozen=True, slots=True)
class _Published:
    version: int
    message: experiment_pb2.ExperimentSet
    at: float
    """When it was stored, on the clock."""


@dataclass(frozen=True, slots=True)
class _Sent:
    version: int
    stored_at: float
    at: float


@dataclass(slots=True)
class _Watcher:
    """One stream."""

    router: str
    joined_at: float
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    sent_version: int = -1
    nonce: int = 0
    unanswered: dict[int, _Sent] = field(default_factory=dict)
    """The sets that were sent and not answered, by nonce; never more than are made within the time to answer."""
    refused: dict[int, _Sent] = field(default_factory=dict)
    """The newest set that it refused, by nonce: it may still take it when its own configuration has changed."""
    end: TurnoutError | None = None
    ended: bool = False


class Watching:
    """The streams of all routers.

    Args:
        routers: what is known of them.
        metrics: where it is counted.
        clock: rising seconds.
        pace: how long is waited.
    """

    def __init__(
        self,
        routers: Routers,
        metrics: ControlMetrics,
        *,
        clock: Callable[[], float],
        pace: Pace,
    ) -> None:
        self._routers = routers
        self._metrics = metrics
        self._clock = clock
        self.stopping = asyncio.Event()
        """Ends every stream once it is set."""
        self._pace = pace
        self._newest: _Published | None = None
        self._watchers: dict[str, _Watcher] = {}
        self._messages: dict[str, tuple[Experiment, experiment_pb2.Experiment]] = {}

    def publish(self, given: ExperimentSet) -> None:
        """Makes a set the newest one and wakes every watcher."""
        self._newest = _Published(given.version, self._message(given), self._clock())
        self._metrics.version.set(given.version)
        for watcher in self._watchers.values():
            watcher.wake.set()

    async def watch(
        self, requests: AsyncIterator[experiment_pb2.WatchRequest], call: Call
    ) -> AsyncGenerator[experiment_pb2.WatchResponse, None]:
        """Serves one router until it leaves or is dropped.

        Raises:
            InvalidArgument: the first message is no hello, or a later one makes no sense.
            DeadlineExceeded: it said nothing at first, or did not answer a set in time.
            Aborted: another stream of the same router took over.
            ResourceExhausted: too many watch.
            Unavailable: nothing was read from the database yet.
        """
        watcher = await self._join(requests, call)
        reading = asyncio.create_task(self._read(watcher, requests))
        guarding = asyncio.create_task(self._guard(watcher, asyncio.current_task()))
        stopping = asyncio.create_task(self._end_at_stop(watcher))
        try:
            while not watcher.ended:
                self._check(watcher)
                yield self._next(watcher)
                if self._newest is not None and watcher.sent_version == self._newest.version:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._pace.heartbeat):
                            await watcher.wake.wait()
            self._check(watcher)
        finally:
            for task in (reading, guarding, stopping):
                task.cancel()
            await asyncio.gather(reading, guarding, stopping, return_exceptions=True)
            self._leave(watcher)

    async def _join(self, requests: AsyncIterator[experiment_pb2.WatchRequest], call: Call) -> _Watcher:
        try:
            async with asyncio.timeout(self._pace.hello):
                first = await anext(requests, None)
        except TimeoutError:
            raise DeadlineExceeded("hello", f"say hello within {self._pace.hello:g} s") from None
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidArgument("hello", "the first message must be a hello")
        router = first.hello.router
        if not is_id(router):
            raise InvalidArgument("hello.router", "hello.router must be 1 to 128 characters of [A-Za-z0-9._:-]")
        if self._newest is None:
            raise Unavailable("", "the experiments were not read from the database yet; try again")
        if len(self._watchers) >= MAX_WATCHERS and router not in self._watchers:
            raise ResourceExhausted("", f"{MAX_WATCHERS} routers watch already")
        if (older := self._watchers.get(router)) is not None:
            self._drop(older, Aborted("hello.router", f"another stream of {router} took over"), "replaced")
        watcher = self._watchers[router] = _Watcher(router, self._clock())
        self._routers.joined(router, first.hello.applied_version)
        self._metrics.watchers.set(len(self._watchers))
        _log.info("router watches", router=router, peer=call.peer, applied_version=first.hello.applied_version)
        return watcher

    def _next(self, watcher: _Watcher) -> experiment_pb2.WatchResponse:
        """Gives the newest set when the watcher does not have it, otherwise a heartbeat."""
        newest = self._newest
        if newest is None:
            raise Unavailable("", "the experiments were not read from the database yet; try again")
        watcher.wake.clear()
        watcher.nonce += 1
        response = experiment_pb2.WatchResponse(nonce=watcher.nonce, version=newest.version)
        if watcher.sent_version != newest.version:
            watcher.sent_version = newest.version
            watcher.unanswered[watcher.nonce] = _Sent(newest.version, newest.at, self._clock())
            response.set.CopyFrom(newest.message)
        return response

    async def _read(self, watcher: _Watcher, requests: AsyncIterator[experiment_pb2.WatchRequest]) -> None:
        try:
            async for request in requests:
                match request.WhichOneof("message"):
                    case "acknowledgement":
                        self._acknowledged(watcher, request.acknowledgement)
                    case "readiness" if len(request.readiness.ready) <= MAX_READY:
                        ready = frozenset((one.family, one.variant) for one in request.readiness.ready)
                        self._routers.tells_ready(watcher.router, ready)
                    case "readiness":
                        field = "readiness.ready"
                        raise InvalidArgument(field, f"{field} must name at most {MAX_READY} variants")
                    case _:
                        raise InvalidArgument("message", "after the hello there are acknowledgements and readiness")
        except TurnoutError as error:
            self._drop(watcher, error, "wrong")
        finally:
            watcher.ended = True
            watcher.wake.set()

    def _acknowledged(self, watcher: _Watcher, told: experiment_pb2.WatchAcknowledgement) -> None:
        if not 1 <= told.nonce <= watcher.nonce:
            raise InvalidArgument("acknowledgement.nonce", "acknowledgement.nonce must be that of a response")
        if told.applied_version < 0:
            raise InvalidArgument("acknowledgement.applied_version", "acknowledgement.applied_version is below 0")
        answered = watcher.unanswered.get(told.nonce) or watcher.refused.get(told.nonce)
        # Who answers a set has seen those before it.
        watcher.unanswered = {nonce: sent for nonce, sent in watcher.unanswered.items() if nonce > told.nonce}
        if answered is None:
            self._routers.heard(watcher.router)
            return
        refusal = " ".join(told.refusal.replace("\0", " ").split())[:MAX_TEXT]
        watcher.refused = {told.nonce: answered} if refusal else {}
        lag = None
        if not refusal and told.applied_version == answered.version:
            lag = self._clock() - max(answered.stored_at, watcher.joined_at)
        self._metrics.acknowledged(lag, applied=not refusal)
        self._routers.answered(watcher.router, told.applied_version, None if lag is None else round(lag * 1e6), refusal)
        if refusal:
            _log.error("router refused a set", router=watcher.router, version=answered.version, refusal=refusal)

    async def _guard(self, watcher: _Watcher, serving: asyncio.Task[object] | None) -> None:
        """Ends a stream whose reader does not read: the sending of a response hangs, so nothing else would."""
        while True:
            await asyncio.sleep(self._pace.heartbeat)
            overdue = self._overdue(watcher)
            if overdue > self._pace.acknowledgement + 2 * self._pace.heartbeat and serving is not None:
                self._metrics.dropped("stuck")
                _log.warning("router does not read; its stream is ended", router=watcher.router)
                serving.cancel()
                return

    async def _end_at_stop(self, watcher: _Watcher) -> None:
        await self.stopping.wait()
        watcher.ended = True
        watcher.wake.set()

    def _check(self, watcher: _Watcher) -> None:
        """Raises why a watcher is dropped, if it is."""
        if watcher.end is None and self._overdue(watcher) > self._pace.acknowledgement:
            sentence = f"a set was not acknowledged within {self._pace.acknowledgement:g} s"
            self._drop(watcher, DeadlineExceeded("acknowledgement", sentence), "silent")
        if watcher.end is not None:
            raise watcher.end

    def _overdue(self, watcher: _Watcher) -> float:
        return max((self._clock() - sent.at for sent in watcher.unanswered.values()), default=0.0)

    def _drop(self, watcher: _Watcher, why: TurnoutError, reason: str) -> None:
        self._metrics.dropped(reason)
        _log.warning("router's stream is ended", router=watcher.router, reason=why.message)
        watcher.end = why
        watcher.wake.set()

    def _leave(self, watcher: _Watcher) -> None:
        if self._watchers.get(watcher.router) is watcher:
            del self._watchers[watcher.router]
            self._routers.left(watcher.router)
            self._metrics.watchers.set(len(self._watchers))
            _log.info("router left", router=watcher.router)

    def _message(self, given: ExperimentSet) -> experiment_pb2.ExperimentSet:
        """Gives the set's message; what did not change since the last one is not made again."""
        known, self._messages = self._messages, {}
        message = experiment_pb2.ExperimentSet(version=given.version, origin=given.origin)
        for name, experiment in sorted(given.experiments.items()):
            before = known.get(name)
            made = before[1] if before and before[0] is experiment else experiment_to_message(experiment)
            self._messages[name] = (experiment, made)
            message.experiments.append(made)
        message.layers.extend(layer_to_message(name, layer) for name, layer in sorted(given.layers.items()))
        return message
