"""Predictions: asked of the router, answered by the family's rules when the router does not answer in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from services.client.answers import Answer, answer_of, answers_of
from services.client.features import AskedRow, Features, Row, batch_of, by_kind, request_of
from services.client.link import Link
from services.client.local import LocalRules
from services.client.outcomes import LocalDecisions
from services.client.status import CALLERS_OWN, Failure
from services.client.stream import LONGEST_CALL_SECONDS, MAX_FRAME_BYTES, Settled
from services.client.throttle import Throttle
from services.runtime.errors import InvalidArgument, ResourceExhausted, Unavailable
from services.runtime.identifiers import check_decision_id
from turnout.v1.prediction_pb2 import PredictBatchResponse, PredictRequest, PredictResponse

MARGIN_SECONDS: Final = 0.025
"""Kept back from a call's deadline for the rules' answer; a quarter of the deadline where that is less."""
ROW_MARGIN_SECONDS: Final = 0.00005
"""Kept back besides for each row of a batch."""
MAX_ROWS: Final = 1000


class Predictions:
    """Asks over the link. `rules` is None when the fallback is off."""

    def __init__(
        self,
        link: Link,
        rules: LocalRules | None,
        local: LocalDecisions,
        *,
        multiplexed: bool,
        clock: Callable[[], float],
        make_id: Callable[[], str],
        throttle: Throttle,
    ) -> None:
        self._link = link
        self._rules = rules
        self._local = local
        self._multiplexed = multiplexed
        self._clock = clock
        self._make_id = make_id
        self.throttle = throttle
        self.by_router = 0
        self.by_rules = 0

    async def predict(
        self, family: str, features: Features, *, unit_id: str, region: str, decision_id: str, timeout_seconds: float
    ) -> Answer:
        """Answers one row; see `TurnoutClient.predict`."""
        give_up_at = self._give_up_at(timeout_seconds, rows=1)
        if decision_id:
            check_decision_id(decision_id)
        # Even a decision without the caller's id needs one before it is sent: it may have to be sent again.
        row = Row(decision_id or self._make_id(), unit_id, region, by_kind(features))
        request = request_of(family, row)
        refused = self.throttle.check(family)
        if refused is not None:
            return self._answer_locally(Failure(refused, sent=False), family, row)
        settled = await (self._link.exchange if self._multiplexed else self._unary)(request, give_up_at)
        self._heed(family, settled)
        if isinstance(settled, Failure):
            return self._answer_locally(settled, family, row)
        self.by_router += 1
        return answer_of(settled)

    async def predict_batch(
        self, family: str, asked: Sequence[Features | AskedRow], *, unit_id: str, region: str, timeout_seconds: float
    ) -> tuple[Answer, ...]:
        """Answers rows of one family; see `TurnoutClient.predict_batch`."""
        if not 1 <= len(asked) <= MAX_ROWS:
            raise InvalidArgument("rows", f"rows must be 1 to {MAX_ROWS}, not {len(asked)}")
        give_up_at = self._give_up_at(timeout_seconds, len(asked))
        rows = [self._row(one, unit_id, region) for one in asked]
        payload = batch_of(family, rows).SerializeToString()
        if len(payload) > MAX_FRAME_BYTES:
            raise InvalidArgument("rows", f"the batch is {len(payload)} bytes, the limit is {MAX_FRAME_BYTES}")
        refused = self.throttle.check(family)
        settled = Failure(refused, sent=False) if refused else await self._ask_batch(payload, len(rows), give_up_at)
        self._heed(family, settled)
        if isinstance(settled, Failure):
            # The margin is for all rows, so they are answered without giving way to others in between.
            return tuple(self._answer_locally(settled, family, row) for row in rows)
        self.by_router += len(rows)
        return settled

    def _row(self, asked: Features | AskedRow, unit_id: str, region: str) -> Row:
        if isinstance(asked, Mapping):
            return Row(self._make_id(), unit_id, region, by_kind(asked))
        if asked.decision_id:
            check_decision_id(asked.decision_id)
        return Row(
            asked.decision_id or self._make_id(),
            asked.unit_id or unit_id,
            asked.region or region,
            by_kind(asked.features),
        )

    def _give_up_at(self, timeout_seconds: float, rows: int) -> float:
        """Checks a timeout and gives the loop's time at which the router's answer comes too late."""
        if not 0 < timeout_seconds <= LONGEST_CALL_SECONDS:
            raise InvalidArgument(
                "timeout", f"timeout must be over 0 and at most {LONGEST_CALL_SECONDS:g} s, not {timeout_seconds:g}"
            )
        margin = min(MARGIN_SECONDS + rows * ROW_MARGIN_SECONDS, timeout_seconds / 4) if self._rules else 0.0
        return self._clock() + timeout_seconds - margin

    async def _unary(self, request: PredictRequest, give_up_at: float) -> Settled:
        reply = await self._link.ask("Predict", request.SerializeToString(), give_up_at)
        if isinstance(reply, Failure):
            return reply
        try:
            return PredictResponse.FromString(reply)
        except DecodeError:
            return _unreadable()

    async def _ask_batch(self, payload: bytes, rows: int, give_up_at: float) -> tuple[Answer, ...] | Failure:
        reply = await self._link.ask("PredictBatch", payload, give_up_at)
        if isinstance(reply, Failure):
            return reply
        try:
            return answers_of(PredictBatchResponse.FromString(reply), rows)
        except (DecodeError, ValueError):
            return _unreadable()

    def _heed(self, family: str, settled: object) -> None:
        """Tells the throttle what the router did with a call."""
        if isinstance(settled, Failure) and isinstance(settled.error, ResourceExhausted):
            if settled.sent:
                self.throttle.turned_away(family, settled.error)
        else:
            self.throttle.let_in(family)

    def _answer_locally(self, failure: Failure, family: str, row: Row) -> Answer:
        if self._rules is None or isinstance(failure.error, CALLERS_OWN):
            raise failure.error
        answer = self._rules.answer(family, row)
        self._local.add(row.decision_id, sent=failure.sent)
        self.by_rules += 1
        return answer


def _unreadable() -> Failure:
    return Failure(Unavailable("", "the router's answer could not be read"), sent=True)
