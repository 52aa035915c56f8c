"""The dispatch service: ranks the units that could be sent, and passes on how it went.

It asks a predictor; whatever goes wrong there, the family's own rules rank the units, so that a dispatcher always
gets an answer inside the deadline.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import structlog

from bentos.family import RULES
from dispatch.v1 import dispatch_pb2
from services.dispatch.rows import CandidateRow, rows_of
from services.runtime.call import Call
from services.runtime.errors import DeadlineExceeded, InvalidArgument
from services.runtime.identifiers import check_decision_id

FAMILY_NAME: Final = "dispatch"
DEFAULT_TIMEOUT: Final = 0.5
MAX_TIMEOUT: Final = 5.0
RESERVE: Final = 0.05
"""Seconds of the caller's deadline that are kept for the rules and the way back."""
MAX_LOCAL: Final = 10_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_AHEAD: Final = timedelta(minutes=5)

_log = structlog.get_logger(__name__)


class Prediction(Protocol):
    """What is used of the answer to one row."""

    @property
    def decision_id(self) -> str:
        """The decision's id."""

    @property
    def value(self) -> float:
        """Probability of success."""

    @property
    def confidence(self) -> float:
        """How sure the answer is."""

    @property
    def served_variant(self) -> str:
        """Variant that answered."""

    @property
    def reasons(self) -> Sequence[str]:
        """Reasons, when the rules answered."""


class Predictor(Protocol):
    """Where predictions come from and outcomes go to; `services.client.client.TurnoutClient` is one."""

    async def predict_batch(
        self,
        family: str,
        rows: Sequence[Mapping[str, float | str | bool]],
        *,
        unit_id: str,
        region: str,
        timeout: float,  # noqa: ASYNC109 - the deadline travels to the router
    ) -> Sequence[Prediction]:
        """Answers rows of one unit in their order, within `timeout` seconds."""

    async def record_outcome(
        self,
        decision_id: str,
        value: float,
        occurred_at: datetime | None,
        *,
        timeout: float,  # noqa: ASYNC109 - bounds all attempts together
    ) -> object:
        """Records how a decision turned out; no time means now.

        Raises:
            TurnoutError: the outcome was not taken; NotFound when nobody made the decision.
        """


class DispatchService:
    """Handlers of dispatch.v1.DispatchService.

    Args:
        predictor: asked for every ranking.
        new_id: makes the ids of decisions that the rules here make.
        now: seconds since 1970-01-01T00:00Z.
    """

    def __init__(self, predictor: Predictor, *, new_id: Callable[[], str], now: Callable[[], float]) -> None:
        self._predictor = predictor
        self._new_id = new_id
        self._now = now
        self._local: dict[str, None] = {}
        self.answered_by_predictor = 0
        self.answered_by_rules = 0

    async def recommend(self, request: dispatch_pb2.RecommendRequest, call: Call) -> dispatch_pb2.RecommendResponse:
        """Ranks the candidates by probability of success; of equals, the one expected first comes first.

        Raises:
            InvalidArgument: names the field by its path.
        """
        rows = rows_of(request)
        ranked = await self._ask(request.incident, rows, _budget(call.time_left(), DEFAULT_TIMEOUT))
        if ranked is None:
            self.answered_by_rules += 1
            ranked = [self._by_rules(row) for row in rows]
        else:
            self.answered_by_predictor += 1
        order = sorted(range(len(rows)), key=lambda index: _rank(rows[index], ranked[index]))
        return dispatch_pb2.RecommendResponse(units=[ranked[index] for index in order])

    async def report(self, request: dispatch_pb2.ReportRequest, call: Call) -> dispatch_pb2.ReportResponse:
        """Passes on how an assignment went.

        The outcome of a decision that only the rules here made is taken, and told to nobody: no arm made it.

        Raises:
            InvalidArgument: the id is malformed, or the time lies more than 5 minutes ahead.
            DeadlineExceeded: the call came with no time left.
            TurnoutError: the outcome could not be recorded; trying again is safe.
        """
        check_decision_id(request.decision_id)
        occurred_at = self._when(request.occurred_at_unix_us)
        if request.decision_id in self._local:
            return dispatch_pb2.ReportResponse()
        budget = _budget(call.time_left(), MAX_TIMEOUT)
        if budget <= 0.0:
            raise DeadlineExceeded("", "the call came with no time left to record the outcome")
        value = float(request.success)
        await self._predictor.record_outcome(request.decision_id, value, occurred_at, timeout=budget)
        return dispatch_pb2.ReportResponse()

    async def _ask(
        self, incident: dispatch_pb2.Incident, rows: Sequence[CandidateRow], budget: float
    ) -> list[dispatch_pb2.RankedUnit] | None:
        if budget <= 0.0:
            return None
        try:
            # The predictor keeps the budget, and may itself answer by rules at its end; the outer limit holds should
            # it not keep it.
            async with asyncio.timeout(budget + RESERVE / 2):
                answers = await self._predictor.predict_batch(
                    FAMILY_NAME,
                    [row.features for row in rows],
                    unit_id=incident.incident_id,
                    region=incident.region,
                    timeout=budget,
                )
            return _checked(rows, answers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the rules answer
            _log.warning("predictor_failed", error=type(error).__name__, rows=len(rows))
            return None

    def _by_rules(self, row: CandidateRow) -> dispatch_pb2.RankedUnit:
        said, decision_id = row.by_rules(), self._new_id()
        self._local[decision_id] = None
        if len(self._local) > MAX_LOCAL:
            del self._local[next(iter(self._local))]
        return dispatch_pb2.RankedUnit(
            unit_id=row.unit_id,
            decision_id=decision_id,
            success_probability=said.value,
            confidence=said.confidence,
            served_variant=RULES,
            reasons=said.reasons,
        )

    def _when(self, microseconds: int) -> datetime | None:
        if microseconds == 0:
            return None
        latest = _EPOCH + timedelta(seconds=self._now()) + _MAX_AHEAD
        if not 0 < microseconds <= (latest - _EPOCH) // timedelta(microseconds=1):
            raise InvalidArgument(
                "occurred_at_unix_us", "occurred_at_unix_us must be after 1970 and at most 5 minutes ahead"
            )
        return _EPOCH + timedelta(microseconds=microseconds)


def _budget(time_left: float | None, default: float) -> float:
    """Seconds that the predictor may take; 0 or less when there is no time to ask it."""
    return default if time_left is None else min(time_left - RESERVE, MAX_TIMEOUT)


def _checked(rows: Sequence[CandidateRow], answers: Sequence[Prediction]) -> list[dispatch_pb2.RankedUnit]:
    """Turns answers into ranked units; refuses answers that cannot be ranked."""
    units = []
    for row, answer in zip(rows, answers, strict=True):
        if not 0.0 <= answer.value <= 1.0:
            raise ValueError("an answer holds no probability")
        units.append(
            dispatch_pb2.RankedUnit(
                unit_id=row.unit_id,
                decision_id=answer.decision_id,
                success_probability=answer.value,
                confidence=answer.confidence,
                served_variant=answer.served_variant,
                reasons=answer.reasons,
            )
        )
    return units


def _rank(row: CandidateRow, unit: dispatch_pb2.RankedUnit) -> tuple[float, float]:
    expected = row.features.get("response_time_min", math.inf)
    return -unit.success_probability, float(expected)
