"""Follows the hub's experiments: one stream, heartbeats, and an answer to every set, whether it was applied or not.

The hub may be away, restart, or never answer: a stream on which nothing was heard for 5 s is dead, and another one is
opened within a second or so, with jitter, so that a hub that comes back does not meet all routers at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc
import structlog

from services.runtime.cancelling import asked_to_end
from turnout.v1 import experiment_pb2

_log = structlog.get_logger(__name__)
SILENCE_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 0.4
"""How long a set that names an unknown variant waits for the file to name it: four readings of the file."""
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 1.0
_PAUSE_WITHOUT_SERVICE_SECONDS: Final = 5.0


class Applies(Protocol):
    """What a watch hands sets to; see `router.applying.Applier`."""

    configurations: int

    @property
    def version(self) -> int:
        """Version that is applied; 0 for none of the hub's."""

    @property
    def origin(self) -> str:
        """Database that the version counts in; empty for none of the hub's."""

    def ready(self) -> frozenset[tuple[str, str]]:
        """Gives the families and variants that could answer now."""

    async def apply_set(self, message: experiment_pb2.ExperimentSet, *, patience_seconds: float = 0.0) -> str:
        """Applies a set; gives "" or why it was refused."""


class ExperimentWatch:
    """The ExperimentService's Watch, followed until cancelled."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        applier: Applies,
        *,
        router: str,
        token: str | None,
        jitter: Callable[[], float],
        monotonic: Callable[[], float],
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """Opens nothing yet.

        Args:
            channel: to the hub.
            applier: takes the sets.
            router: the router's name.
            token: credential towards the hub.
            jitter: gives a random number in [0, 1).
            monotonic: gives seconds that never go back.
            silence_seconds: after this time without a word the stream is dead.
        """
        self._applier = applier
        self._router = router
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._jitter = jitter
        self._monotonic = monotonic
        self._silence_seconds = silence_seconds
        self._heard_at: float | None = None
        self._refused: tuple[int, experiment_pb2.ExperimentSet] | None = None
        self._refused_under = 0
        self._method = channel.stream_stream(
            "/turnout.v1.ExperimentService/Watch",
            request_serializer=experiment_pb2.WatchRequest.SerializeToString,
            response_deserializer=experiment_pb2.WatchResponse.FromString,
        )

    def silent_seconds(self) -> float:
        """Gives the seconds since the hub was last heard; NaN when it never was."""
        return float("nan") if self._heard_at is None else self._monotonic() - self._heard_at

    async def run(self) -> None:
        """Follows the hub until cancelled; whatever happens to one stream, another one is opened."""
        pause, told = _FIRST_PAUSE_SECONDS, None
        while not asked_to_end():
            heard_before = self._heard_at
            longest = _LONGEST_PAUSE_SECONDS
            try:
                await self._follow()
                reason = "ended"
            except TimeoutError:
                reason = "silent"
            except grpc.aio.AioRpcError as error:
                reason = error.code().name
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    longest = pause = _PAUSE_WITHOUT_SERVICE_SECONDS
            except Exception as failure:  # noqa: BLE001 - one stream must not end the following
                reason = type(failure).__name__
                _log.error("watching experiments failed", exc_info=failure)
            if self._heard_at != heard_before:
                pause, told = _FIRST_PAUSE_SECONDS, None
            if reason != told:
                _log.info("not watching experiments; the applied ones stay", reason=reason)
                told = reason
            await asyncio.sleep(pause * (0.5 + self._jitter()))
            pause = min(pause * 2, longest)

    async def _follow(self) -> None:
        """Follows one stream to its end.

        Raises:
            TimeoutError: nothing was heard for too long.
            AioRpcError: the stream broke.
        """
        call: Any = self._method(metadata=self._metadata)
        try:
            hello = experiment_pb2.WatchHello(router=self._router, applied_version=self._applier.version)
            await self._write(call, experiment_pb2.WatchRequest(hello=hello))
            told: frozenset[tuple[str, str]] | None = None
            while True:
                # With each word of the hub, a heartbeat at least: it refuses arms that nobody could answer for.
                if (ready := self._applier.ready()) != told:
                    await self._tell_ready(call, ready)
                    told = ready
                async with asyncio.timeout(self._silence_seconds):
                    response = await call.read()
                if response is grpc.aio.EOF:
                    return
                self._heard_at = self._monotonic()
                await self._hear(call, response)
        finally:
            call.cancel()

    async def _hear(self, call: Any, response: experiment_pb2.WatchResponse) -> None:
        if not response.HasField("set"):
            if self._refused is not None and self._refused_under != self._applier.configurations:
                await self._again(call, *self._refused)
            return
        given = response.set
        # Versions of another database, such as a fresh one, say nothing about which set is newer: the hub's is.
        same_origin = given.origin == self._applier.origin
        if same_origin and given.version < self._applier.version:
            _log.error(
                "the hub's experiments are older than the applied ones and are ignored",
                version=given.version,
                applied=self._applier.version,
            )
            refusal = f"version {given.version} is older than the applied version {self._applier.version}"
        elif same_origin and given.version == self._applier.version:
            refusal = ""
        else:
            refusal = await self._applier.apply_set(given, patience_seconds=PATIENCE_SECONDS)
            # What does not fit now may fit when the file has changed: the next heartbeat is another try then.
            self._refused = (response.nonce, given) if refusal else None
            self._refused_under = self._applier.configurations
        await self._answer(call, response.nonce, refusal)

    async def _again(self, call: Any, nonce: int, refused: experiment_pb2.ExperimentSet) -> None:
        self._refused_under = self._applier.configurations
        known = refused.origin == self._applier.origin and refused.version <= self._applier.version
        if known or not await self._applier.apply_set(refused):
            self._refused = None
            await self._answer(call, nonce, "")

    async def _tell_ready(self, call: Any, ready: frozenset[tuple[str, str]]) -> None:
        variants = [experiment_pb2.ReadyVariant(family=family, variant=variant) for family, variant in sorted(ready)]
        readiness = experiment_pb2.WatchReadiness(ready=variants)
        await self._write(call, experiment_pb2.WatchRequest(readiness=readiness))

    async def _answer(self, call: Any, nonce: int, refusal: str) -> None:
        answer = experiment_pb2.WatchAcknowledgement(
            nonce=nonce, applied_version=self._applier.version, refusal=refusal
        )
        await self._write(call, experiment_pb2.WatchRequest(acknowledgement=answer))

    async def _write(self, call: Any, message: experiment_pb2.WatchRequest) -> None:
        async with asyncio.timeout(self._silence_seconds):
            await call.write(message)
