"""turnout.v1.PredictionService: decodes, delegates to the decider, encodes. Knows no transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Final

import structlog

from router.attributes import attributes_for
from router.batching import MAX_ROWS, Batches
from router.deciding import Decider
from router.explaining import explain
from router.metrics import RouterMetrics
from router.outcomes import Outcomes
from router.prepared import Prepared, groups
from router.quotas import Quotas
from router.routing import Route
from services.runtime.admission import Admission
from services.runtime.call import Call
from services.runtime.errors import (
    INTERNAL,
    INTERNAL_MESSAGE,
    InvalidArgument,
    ResourceExhausted,
    TurnoutError,
)
from services.runtime.grpc_binding import retry_after_ms, too_many
from turnout.v1 import prediction_pb2

_log = structlog.get_logger(__name__)
MAX_STREAM_CALLS: Final = 4096
"""Calls of ordinary families under way on one stream; more are refused one by one."""
_SERVICE: Final = prediction_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name


class PredictionService:
    """What callers use."""

    def __init__(
        self,
        decider: Decider,
        outcomes: Outcomes,
        *,
        metrics: RouterMetrics,
        admission: Admission,
        quotas: Quotas,
        stopping: asyncio.Event,
    ) -> None:
        self._decider = decider
        self._admission = admission
        self._quotas = quotas
        self._batches = Batches(decider)
        self._outcomes = outcomes
        self._metrics = metrics
        self._stopping = stopping

    async def predict(self, request: prediction_pb2.PredictRequest, call: Call) -> prediction_pb2.PredictResponse:
        """Answers one row."""
        quota = self._quotas.of(call.tenant)
        route = self._decider.table.route(request.family)
        quota.admit(1, critical=route.critical)
        with quota:
            row = self._prepared(route, request, call, call.time_left())
            self._decider.admit((row,))
            if row.repeats is not None:
                return await self._decider.repeated(row, row.repeats)
            (answer,) = await self._decider.answer((row,))
            return answer

    async def predict_batch(
        self, request: prediction_pb2.PredictBatchRequest, call: Call
    ) -> prediction_pb2.PredictBatchResponse:
        """Answers up to 1 000 rows; one bad row refuses all of them."""
        quota = self._quotas.of(call.tenant)
        route = self._decider.table.route(request.family)
        quota.admit(request.rows, critical=route.critical)
        with quota:
            attributes = attributes_for(route, request.attributes, call)
            batch = self._batches.prepare(request, route, attributes, tenant=call.tenant, time_left=call.time_left())
            self._batches.admit(batch)
            return await self._batches.answer(batch)

    async def answer_all(self, rows: Sequence[Prepared]) -> list[prediction_pb2.PredictResponse]:
        """Answers admitted rows in their order, the groups side by side."""
        parts = groups([row for row in rows if row.repeats is None])
        try:
            answered = (
                await asyncio.gather(*map(self._decider.answer, parts))
                if len(parts) > 1
                else ([await self._decider.answer(parts[0])] if parts else [])
            )
        except asyncio.CancelledError:
            self._decider.abandon(rows)
            raise
        by_row = {
            id(row): answer
            for part, answers in zip(parts, answered, strict=True)
            for row, answer in zip(part, answers, strict=True)
        }
        return [
            by_row[id(row)] if row.repeats is None else await self._decider.repeated(row, row.repeats) for row in rows
        ]

    async def predict_stream(
        self, requests: AsyncIterator[prediction_pb2.PredictStreamRequest], call: Call
    ) -> AsyncIterator[prediction_pb2.PredictStreamResponse]:
        """Answers calls as their arms do, each frame's groups side by side; ends when the caller or the server does."""
        stream = _Stream(self, call)
        reader = asyncio.create_task(stream.read(requests))
        stopper = asyncio.create_task(self._stopping.wait())
        stopper.add_done_callback(lambda _: reader.cancel())
        try:
            async for results in stream.results(reader):
                yield prediction_pb2.PredictStreamResponse(results=results)
        finally:
            stopper.cancel()
            reader.cancel()
            await asyncio.gather(reader, stopper, return_exceptions=True)

    async def explain(self, request: prediction_pb2.ExplainRequest, call: Call) -> prediction_pb2.ExplainResponse:
        """Says which features moved an answer."""
        quota = self._quotas.of(call.tenant)
        route = self._decider.table.route(request.request.family)
        # Decides nothing, and costs a model far more than a decision.
        quota.admit(0, critical=route.critical)
        with quota:
            row = self._prepared(route, request.request, call, call.time_left())
            return await explain(row, request.variant, self._decider)

    async def record_outcome(
        self, request: prediction_pb2.RecordOutcomeRequest, call: Call
    ) -> prediction_pb2.RecordOutcomeResponse:
        """Takes one outcome."""
        (result,) = await self._outcomes.record(call.tenant, [request])
        if isinstance(result, TurnoutError):
            raise result
        return result

    async def record_outcomes(
        self, request: prediction_pb2.RecordOutcomesRequest, call: Call
    ) -> prediction_pb2.RecordOutcomesResponse:
        """Takes up to 1 000 outcomes."""
        results = await self._outcomes.record(call.tenant, request.outcomes)
        return prediction_pb2.RecordOutcomesResponse(
            results=[
                prediction_pb2.OutcomeResult(error=self.refusal(result))
                if isinstance(result, TurnoutError)
                else prediction_pb2.OutcomeResult(accepted=result)
                for result in results
            ]
        )

    def refusal(self, error: TurnoutError) -> prediction_pb2.CallError:
        """Gives an error the form that it has inside a stream or a list, where the boundary does not count it."""
        self._metrics.refused(_SERVICE, error.code)
        return prediction_pb2.CallError(
            code=error.code, message=error.message, field=error.field, retry_after_ms=retry_after_ms(error)
        )

    def _prepared(
        self, route: Route, request: prediction_pb2.PredictRequest, call: Call, time_left: float | None
    ) -> Prepared:
        return self._decider.prepare(
            route,
            tenant=call.tenant,
            decision_id=request.decision_id,
            unit_id=request.unit_id,
            region=request.region,
            numbers=request.numbers,
            categories=request.categories,
            flags=request.flags,
            time_left=time_left,
            attributes=attributes_for(route, request.attributes, call),
        )

    def take_frame(
        self, frame: prediction_pb2.PredictStreamRequest, call: Call, room: int
    ) -> tuple[list[list[tuple[int, Prepared]]], list[prediction_pb2.PredictResult]]:
        """Prepares the calls of a frame: gives them in groups with their numbers, and the results of refused ones."""
        taken: list[tuple[int, Prepared]] = []
        refused: list[prediction_pb2.PredictResult] = []
        for position, entry in enumerate(frame.calls):
            try:
                taken.append((entry.call_id, self._take(entry, call, within_room=position < room)))
            except TurnoutError as error:
                refused.append(prediction_pb2.PredictResult(call_id=entry.call_id, error=self.refusal(error)))
        gathered: dict[tuple[str, str, int], list[tuple[int, Prepared]]] = {}
        for place, (call_id, row) in enumerate(taken):
            # By its place: nothing keeps a caller from giving several calls one number.
            alone = place if row.repeats is not None else -1
            gathered.setdefault((row.route.family.name, row.variant, alone), []).append((call_id, row))
        return list(gathered.values()), refused

    def _take(self, entry: prediction_pb2.PredictCall, call: Call, *, within_room: bool) -> Prepared:
        """Lets one call of a stream in, as the boundary and `predict` do for one that comes alone."""
        request = entry.request
        route = self._decider.table.route(request.family)
        critical = route.critical
        if not within_room and not critical:
            raise ResourceExhausted("calls", f"a stream may have {MAX_STREAM_CALLS} calls under way; wait")
        if wait := self._admission.enter(critical=critical):
            raise too_many(wait)
        quota = self._quotas.of(call.tenant)
        try:
            quota.admit(1, critical=critical)
            row = self._prepared(route, request, call, entry.timeout_ms / 1000 if entry.timeout_ms else None)
            self._decider.admit((row,))
        except TurnoutError:
            self._admission.leave(critical=critical)
            raise
        quota.__enter__()
        return row

    def leave(self, group: Sequence[tuple[int, Prepared]]) -> None:
        """Takes note that calls of a stream ended, however they did."""
        for _, row in group:
            self._admission.leave(critical=row.route.critical)
            self._quotas.of(row.tenant).__exit__(None, None, None)

    def abandon(self, group: Sequence[tuple[int, Prepared]]) -> None:
        """Records the calls of a group that were taken and then cancelled."""
        self._decider.abandon([row for _, row in group])

    async def answer_group(self, group: Sequence[tuple[int, Prepared]]) -> list[prediction_pb2.PredictResult]:
        """Answers a group that `take_frame` gave."""
        rows = [row for _, row in group]
        repeats = rows[0].repeats
        if repeats is not None:
            answers = [await self._decider.repeated(rows[0], repeats)]
        else:
            answers = await self._decider.answer(rows)
        return [
            prediction_pb2.PredictResult(call_id=call_id, prediction=answer)
            for (call_id, _), answer in zip(group, answers, strict=True)
        ]


class _Stream:
    """One multiplexed stream: reads frames, answers their groups side by side, gathers what is ready into frames."""

    def __init__(self, service: PredictionService, call: Call) -> None:
        self._service = service
        self._call = call
        self._ready: list[prediction_pb2.PredictResult] = []
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, requests: AsyncIterator[prediction_pb2.PredictStreamRequest]) -> None:
        try:
            async for frame in requests:
                while len(self._ready) >= MAX_STREAM_CALLS:
                    # A caller who writes and does not read: its next frames wait with it.
                    self._taken.clear()
                    await self._taken.wait()
                if not 1 <= len(frame.calls) <= MAX_ROWS:
                    raise InvalidArgument("calls", f"calls must be 1 to {MAX_ROWS}, not {len(frame.calls)}")
                parts, refused = self._service.take_frame(frame, self._call, MAX_STREAM_CALLS - self._under_way)
                if refused:
                    self._ready.extend(refused)
                    self._wake.set()
                for part in parts:
                    self._under_way += len(part)
                    self._start(self._answer(part), part)
        finally:
            self._wake.set()

    def _start(self, work: Coroutine[Any, Any, None], part: list[tuple[int, Prepared]]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._ended(ended, part))

    def _ended(self, task: asyncio.Task[None], part: list[tuple[int, Prepared]]) -> None:
        self._tasks.discard(task)
        self._service.leave(part)
        if task.cancelled():
            self._service.abandon(part)

    async def _answer(self, part: list[tuple[int, Prepared]]) -> None:
        try:
            results = await self._service.answer_group(part)
            # Looked up after the wait: `results()` puts a new list in place whenever it takes the ready ones.
            self._ready.extend(results)
        except Exception as failure:  # noqa: BLE001 - the boundary of one call inside a stream
            _log.error("stream call failed", exc_info=failure)
            error = prediction_pb2.CallError(code=INTERNAL, message=INTERNAL_MESSAGE)
            self._ready.extend(prediction_pb2.PredictResult(call_id=call_id, error=error) for call_id, _ in part)
        finally:
            self._under_way -= len(part)
            self._wake.set()

    async def results(self, reader: asyncio.Task[None]) -> AsyncIterator[list[prediction_pb2.PredictResult]]:
        """Gives what is ready, until the reading is over and every call that was taken has its result."""
        try:
            while True:
                if self._ready:
                    batch, self._ready = self._ready[:MAX_ROWS], self._ready[MAX_ROWS:]
                    self._taken.set()
                    yield batch
                elif reader.done() and not self._under_way:
                    if not reader.cancelled() and (error := reader.exception()) is not None:
                        raise error
                    return
                else:
                    await self._wake.wait()
                    self._wake.clear()
        finally:
            for task in self._tasks:
                task.cancel()
