"""The client for those who ask: one plain call, an answer inside the deadline, and outcomes that arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from types import TracebackType
from typing import Final, Literal, Self

import grpc

from services.client.answers import Answer, Explanation, explanation_of
from services.client.connection import Endpoint
from services.client.features import AskedRow, Features, Row, by_kind, request_of
from services.client.link import Link
from services.client.local import LocalRules
from services.client.outcomes import MAX_OUTCOMES, LocalDecisions, Outcome, OutcomeResult, Recorder
from services.client.predictions import Predictions
from services.client.readiness import wait_until_serving
from services.client.reporter import Reporter
from services.client.settings import ClientSettings, Statistics
from services.client.status import Failure
from services.client.throttle import Throttle
from services.runtime.errors import FailedPrecondition, TurnoutError
from services.runtime.identifiers import uuid7_source
from turnout.v1.prediction_pb2 import ExplainRequest, ExplainResponse

DEFAULT_TIMEOUT: Final = 0.5
EXPLAIN_TIMEOUT: Final = 2.0
OUTCOME_TIMEOUT: Final = 10.0
LOCAL_DECISIONS: Final = 100_000
"""Locally answered decisions that a client remembers, to know that the router does not know them."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What exists between entering and leaving the block."""

    link: Link
    predictions: Predictions
    recorder: Recorder
    reporter: Reporter
    tasks: tuple[asyncio.Task[None], ...]


class TurnoutClient:
    """A connection to the routers for one event loop; use it inside `async with`.

    Args:
        target: host:port, unix:path, or any gRPC target such as dns:///routers:8001.
        token: the tenant's bearer token; None where the router asks for none.
        credentials: TLS credentials; None speaks plain text, for loopback and for meshes that encrypt.
        transport, fallback, families: as in `ClientSettings`, which they override.
        settings: everything else.
        chance: source of jitter and of decision ids.
        now: seconds since 1970-01-01T00:00Z.
    """

    def __init__(
        self,
        target: str,
        token: str | None = None,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        transport: Literal["stream", "unary"] | None = None,
        fallback: bool | None = None,
        families: Sequence[str] | None = None,
        settings: ClientSettings | None = None,
        chance: Random | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        settings = settings or ClientSettings()
        self._multiplexed = (transport or settings.transport) == "stream"
        self._fallback = settings.fallback if fallback is None else fallback
        self._families = tuple(settings.families if families is None else families)
        self._settings = settings
        self._endpoint = Endpoint(target=target, token=token, credentials=credentials, multiplexed=self._multiplexed)
        self._chance = chance or Random()  # noqa: S311 - jitter and ids keep no secret
        self._now = now
        self._entered: _Parts | None = None

    async def __aenter__(self) -> Self:
        """Starts connecting, without waiting for it.

        Raises:
            NotFound: one of `families` does not exist.
        """
        rules = LocalRules() if self._fallback else None
        if rules is not None:
            for family in self._families:
                await asyncio.to_thread(rules.load, family)
        clock = asyncio.get_running_loop().time
        link = Link(self._endpoint, self._settings.link, self._chance, patient=not self._fallback)
        local = LocalDecisions(LOCAL_DECISIONS)
        predictions = Predictions(
            link,
            rules,
            local,
            multiplexed=self._multiplexed,
            clock=clock,
            make_id=uuid7_source(lambda: int(self._now() * 1000), self._chance.getrandbits),
            throttle=Throttle(clock, self._chance),
        )
        outcomes = self._settings.outcomes
        recorder = Recorder(link.ask, local, outcomes, clock=clock, now=self._now, chance=self._chance)
        reporter = Reporter(recorder, outcomes, clock=clock, chance=self._chance)
        tasks = (asyncio.create_task(link.run()), asyncio.create_task(reporter.run()))
        self._entered = _Parts(link, predictions, recorder, reporter, tasks)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for pending outcomes, within limits, then closes the connection."""
        parts = self._parts()
        try:
            await parts.reporter.flush(self._settings.close_timeout)
        finally:
            self._entered = None
            for task in reversed(parts.tasks):
                task.cancel()
            await asyncio.wait(parts.tasks)

    async def predict(
        self,
        family: str,
        features: Features,
        *,
        unit_id: str = "",
        region: str = "",
        decision_id: str = "",
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - the deadline travels to the router
    ) -> Answer:
        """Answers one row inside its deadline.

        Args:
            family: prediction problem, for example "dispatch".
            features: what is known, by name: numbers, texts and booleans; leave out what is not known.
            unit_id: what is assigned and stays assigned; empty: the decision itself.
            region: region of the switchback block.
            decision_id: the caller's id, under which a repeated call gets the same answer; empty: a new UUIDv7.
            timeout: seconds until the answer is needed, over 0 and at most 5.

        Raises:
            InvalidArgument, NotFound, AlreadyExists, Unauthenticated, PermissionDenied: the call itself is wrong.
            TurnoutError: any other failure, only when the fallback is off.
        """
        predictions = self._parts().predictions
        return await predictions.predict(
            family, features, unit_id=unit_id, region=region, decision_id=decision_id, timeout_seconds=timeout
        )

    async def predict_batch(
        self,
        family: str,
        rows: Sequence[Features | AskedRow],
        *,
        unit_id: str = "",
        region: str = "",
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - the deadline travels to the router
    ) -> Sequence[Answer]:
        """Answers 1 to 1 000 rows in their order; arguments and errors as for `predict`.

        A row is a mapping of features, or an object with its own decision_id, unit_id, region and features.
        One bad row refuses the whole batch.
        """
        predictions = self._parts().predictions
        return await predictions.predict_batch(family, rows, unit_id=unit_id, region=region, timeout_seconds=timeout)

    async def explain(
        self,
        family: str,
        features: Features,
        *,
        unit_id: str = "",
        region: str = "",
        variant: str = "",
        timeout: float = EXPLAIN_TIMEOUT,  # noqa: ASYNC109 - the deadline travels to the router
    ) -> Explanation:
        """Tells how much each feature moved the answer; there is no local fallback, and nothing is recorded.

        Raises:
            TurnoutError: the router's error, or that it is away.
        """
        request = request_of(family, Row("", unit_id, region, by_kind(features)))
        payload = ExplainRequest(request=request, variant=variant).SerializeToString()
        reply = await self._parts().link.ask("Explain", payload, asyncio.get_running_loop().time() + timeout)
        if isinstance(reply, Failure):
            raise reply.error
        return explanation_of(ExplainResponse.FromString(reply))

    async def record_outcome(
        self,
        decision_id: str,
        value: float,
        occurred_at: datetime | None = None,
        *,
        cost: float | None = None,
        timeout: float = OUTCOME_TIMEOUT,  # noqa: ASYNC109 - bounds all attempts together
    ) -> None:
        """Reports what really happened, again and again within `timeout` seconds where that can help.

        The outcome of a decision that only this client knows is counted instead of sent: it was answered locally
        and belongs to no arm.

        Raises:
            TurnoutError: the error that stood last; NotFound for a decision that nobody made.
        """
        result = (await self.record_outcomes([Outcome(decision_id, value, occurred_at, cost)], timeout=timeout))[0]
        if isinstance(result, TurnoutError):
            raise result

    async def record_outcomes(
        self,
        outcomes: Sequence[Outcome],
        *,
        timeout: float = OUTCOME_TIMEOUT,  # noqa: ASYNC109 - bounds all attempts together
    ) -> Sequence[OutcomeResult]:
        """Reports many outcomes, 1 000 a call; gives one result each, in their order, errors included.

        Raises:
            InvalidArgument: an outcome has no valid id or time; nothing was sent.
        """
        recorder = self._parts().recorder
        until = asyncio.get_running_loop().time() + timeout
        messages = [recorder.message(outcome) for outcome in outcomes]
        results: list[OutcomeResult] = []
        for start in range(0, len(messages), MAX_OUTCOMES):
            results += await recorder.record(messages[start : start + MAX_OUTCOMES], until)
        return results

    def report_outcome(
        self, decision_id: str, value: float, occurred_at: datetime | None = None, *, cost: float | None = None
    ) -> bool:
        """Hands an outcome to the background sender; False when its queue is full and the outcome was dropped.

        Raises:
            InvalidArgument: the id or the time is not valid.
        """
        return self._parts().reporter.report(Outcome(decision_id, value, occurred_at, cost))

    async def flush(self, timeout: float) -> bool:  # noqa: ASYNC109 - a bound, not an error
        """Waits until no reported outcome is pending; False when `timeout` seconds were too short."""
        return await self._parts().reporter.flush(timeout)

    async def ready(self, timeout: float) -> bool:  # noqa: ASYNC109 - a bound, not an error
        """Waits until the router is connected and says that it serves; False after `timeout` seconds."""
        clock = asyncio.get_running_loop().time
        return await wait_until_serving(self._parts().link.ask, clock, clock() + timeout, self._chance)

    @property
    def statistics(self) -> Statistics:
        """Counts so far."""
        parts = self._parts()
        return Statistics(
            parts.predictions.by_router,
            parts.predictions.by_rules,
            parts.link.under_way,
            parts.link.connections,
            parts.link.resent,
            parts.predictions.throttle.turned,
            parts.predictions.throttle.refused,
            parts.recorder.local,
            parts.reporter.statistics,
        )

    def _parts(self) -> _Parts:
        if self._entered is None:
            raise FailedPrecondition("", "use the client inside `async with TurnoutClient(...)`")
        return self._entered
