"""The life of a prediction: validate, assign, compute the rules, ask the arm, fall back, record, answer.

Every entry point (one row, a batch, a stream, the Open Inference Protocol) goes through here: `prepare` is
synchronous and never waits, `answer` waits for the arm at most its share of the deadline, and what comes out is
always an answer. Rows of one group travel to the arm together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from bentos.family import RULES, Family
from router.answers import (
    NO_ASSIGNMENT,
    Assignments,
    Attempt,
    ModelAnswers,
    Records,
    Reply,
    model_template,
    note_attempts,
)
from router.asking import Asking
from router.experiment_metrics import ExperimentMetrics
from router.journal import Journal
from router.metrics import RouterMetrics
from router.prepared import NO_ATTRIBUTES, Prepared, deadline_of, digest_of, groups
from router.recent import Entry, RecentDecisions, answer_of
from router.resilience.budget import REPEAT_RESERVE_SECONDS
from router.resilience.reasons import Fallback
from router.routing import Rotation, Route, RoutingTable, choose
from router.shadow_records import Copy
from router.shadowing import Shadows
from services.runtime.errors import AlreadyExists
from services.runtime.identifiers import Uuid7Source, check_decision_id, check_text
from turnout.v1 import prediction_pb2


class Decider:
    """Answers rows. `table` may be swapped at any moment: a row keeps the table that it was prepared with."""

    def __init__(
        self,
        table: RoutingTable,
        *,
        journal: Journal,
        recent: RecentDecisions,
        rotation: Rotation,
        metrics: RouterMetrics,
        experiment_metrics: ExperimentMetrics,
        asking: Asking,
        shadows: Shadows,
        router: str,
        wait_for_commit: bool,
        make_id: Uuid7Source,
        now_unix_ns: Callable[[], int],
        monotonic_ns: Callable[[], int],
    ) -> None:
        self.table = table
        self.journal = journal
        self.recent = recent
        self.rotation = rotation
        self.metrics = metrics
        self.experiment_metrics = experiment_metrics
        self.asking = asking
        self.shadows = shadows
        self.router = router
        self.wait_for_commit = wait_for_commit
        self.make_id = make_id
        self._now_unix_ns = now_unix_ns
        self.monotonic_ns = monotonic_ns
        self.assignments = Assignments()
        self._models: dict[str, ModelAnswers] = {}

    def prepare(
        self,
        route: Route,
        *,
        tenant: str,
        decision_id: str,
        unit_id: str,
        region: str,
        numbers: Mapping[str, float],
        categories: Mapping[str, str],
        flags: Mapping[str, bool],
        time_left: float | None,
        attributes: Mapping[str, str] = NO_ATTRIBUTES,
    ) -> Prepared:
        """Validates a row; changes nothing.

        Raises:
            InvalidArgument: the row breaks the schema or a bound.
            DeadlineExceeded: no time is left.
        """
        arrived_ns = self.monotonic_ns()
        seconds = deadline_of(route, time_left)
        if unit_id:
            check_text("unit_id", unit_id)
        if region:
            check_text("region", region)
        packed, vector = route.family.schema.encode(numbers, categories, flags)
        digest = b""
        if decision_id:
            check_decision_id(decision_id)
            digest = digest_of(route.family.name, unit_id, region, packed)
        return Prepared(
            route=route,
            tenant=tenant,
            decision_id=decision_id,
            unit_id=unit_id,
            region=region,
            packed=packed,
            vector=vector,
            digest=digest,
            arrived_ns=arrived_ns,
            time_left=seconds,
            attributes=attributes,
        )

    def now_unix_us(self) -> int:
        """Gives the instant that an assignment made now is made for."""
        return self._now_unix_ns() // 1000

    def admit(self, rows: Sequence[Prepared]) -> None:
        """Takes validated rows in, all or none: claims callers' ids, assigns the arms, computes the rules.

        Raises:
            AlreadyExists: a decision id was used with another body.
        """
        claimed: list[Prepared] = []
        for row in rows:
            if row.digest:
                try:
                    row.repeats = self.recent.claim(row.tenant, row.decision_id, row.digest)
                except AlreadyExists:
                    for taken in claimed:
                        self.recent.release(taken.tenant, taken.decision_id)
                    raise
                if row.repeats is None:
                    claimed.append(row)
            else:
                row.decision_id = self.make_id()
        at_unix_us = self.now_unix_us()
        for row in rows:
            if row.repeats is None:
                row.at_unix_us = at_unix_us
                row.variant, row.assignment = self._assign(row)
                family = row.route.family
                row.rules = family.rules(family.row._make(row.vector))

    def _assign(self, row: Prepared) -> tuple[str, prediction_pb2.Assignment]:
        chosen = choose(
            row.route,
            self.rotation,
            unit_id=row.unit_id,
            decision_id=row.decision_id,
            tenant=row.tenant,
            region=row.region,
            at_unix_us=row.at_unix_us,
            vector=row.vector,
            attributes=row.attributes,
            unevaluable=self.experiment_metrics.unevaluable,
        )
        if chosen is None:
            return RULES, NO_ASSIGNMENT
        return chosen.variant, self.assignments.message(chosen)

    async def answer(self, group: Sequence[Prepared]) -> list[prediction_pb2.PredictResponse]:
        """Answers rows that share family and variant, in their order, and records them. Never raises but on cancel."""
        first = group[0]
        try:
            reply = await self._ask(group)
        except asyncio.CancelledError:
            # The caller is gone; what was decided for it is recorded all the same.
            self._finish(group, Reply(None, Fallback.CANCELLED, ""))
            raise
        answers = self._finish(group, reply)
        if self.wait_for_commit and await self.journal.committed():
            for row, answer in zip(group, answers, strict=True):
                answer.durability = prediction_pb2.DURABILITY_DURABLE
                if row.digest:
                    # A repeated call hears the very same.
                    self.recent.settle(row.tenant, row.decision_id, answer)
        self.metrics.latency(first.route.family.name, (self.monotonic_ns() - first.arrived_ns) / 1e9)
        return answers

    async def repeated(self, row: Prepared, entry: Entry) -> prediction_pb2.PredictResponse:
        """Answers a call whose decision was made, or is being made, by an earlier one: the same again.

        Where the first call's answer does not come within this one's deadline, the rules answer it, without an
        assignment and without a record: the decision is the first call's.
        """
        elapsed = (self.monotonic_ns() - row.arrived_ns) / 1e9
        answer = await answer_of(entry, row.time_left - elapsed - REPEAT_RESERVE_SECONDS)
        return answer if answer is not None else unrecorded(row.route.family, row.decision_id, row.vector)

    def abandon(self, rows: Iterable[Prepared]) -> None:
        """Records the admitted rows whose `answer` was cancelled before it began, so that their ids do not hang."""
        left = [r for r in rows if r.repeats is None and self.recent.family_of(r.tenant, r.decision_id) is None]
        for group in groups(left):
            self._finish(group, Reply(None, Fallback.CANCELLED, ""))

    async def _ask(self, group: Sequence[Prepared]) -> Reply:
        first = group[0]
        packed = first.packed if len(group) == 1 else b"".join([row.packed for row in group])
        elapsed = (self.monotonic_ns() - first.arrived_ns) / 1e9
        time_left = min(row.time_left for row in group) - elapsed
        return await self.asking.ask(first.route, first.variant, packed, len(group), time_left=time_left, gone=elapsed)

    def _finish(self, group: Sequence[Prepared], reply: Reply) -> list[prediction_pb2.PredictResponse]:
        """Chooses between the arm's answers and the rules', and writes the journal before anybody hears of them."""
        first = group[0]
        family = first.route.family
        models = self._models.get(family.name)
        if models is None or models.family is not family:
            models = self._models[family.name] = ModelAnswers(family)
        template = None if reply.values is None else model_template(first.assignment, reply)
        scratch = Records(self.router, family, first.tenant)
        record = scratch.decision
        now_ns = self.monotonic_ns()
        answers: list[prediction_pb2.PredictResponse] = []
        records: list[bytes] = []
        counts: dict[tuple[str, str, str, int], int] = {}
        for index, row in enumerate(group):
            judged = models.judge(reply, index)
            if template is None or isinstance(judged, Fallback):
                answer = rules_answer(row, judged if isinstance(judged, Fallback) else reply.fallback, reply.attempts)
            else:
                answer = models.filled(template, row.decision_id, judged)
                if row.assignment is not first.assignment:
                    answer.assignment.CopyFrom(row.assignment)
            record.decision_id = row.decision_id
            record.unit_id = row.unit_id
            record.region = row.region
            record.assigned_at_unix_us = row.at_unix_us
            record.features = row.packed
            record.prediction.CopyFrom(answer)
            record.latency_us = min((now_ns - row.arrived_ns) // 1000, 0xFFFFFFFF)
            record.request_digest = row.digest
            if row.attributes or record.attributes:
                record.ClearField("attributes")
                record.attributes.update(row.attributes)
            answers.append(answer)
            records.append(scratch.serialized())
            assignment = row.assignment
            key = (assignment.experiment, assignment.arm, answer.served_variant, int(answer.fallback))
            counts[key] = counts.get(key, 0) + 1
            self.recent.remember(row.tenant, row.decision_id, family.name)
        self.journal.append(records)
        for row, answer in zip(group, answers, strict=True):
            if row.digest:
                self.recent.settle(row.tenant, row.decision_id, answer)
        self._count(family.name, counts)
        if first.route.shadowed:
            self._shadow(group, answers, now_ns)
        return answers

    def _count(self, family: str, counts: Mapping[tuple[str, str, str, int], int]) -> None:
        for key, count in counts.items():
            self.metrics.predictions(family, key, count)

    def _shadow(
        self, group: Sequence[Prepared], answers: Sequence[prediction_pb2.PredictResponse], now_ns: int
    ) -> None:
        for row, answer in zip(group, answers, strict=True):
            # A route may be older than its neighbour's, from before a change.
            if row.route.shadowed and row.assignment.experiment:
                copy = Copy(
                    row.route,
                    row.assignment.experiment,
                    row.tenant,
                    row.decision_id,
                    row.packed,
                    row.at_unix_us,
                    answer.value,
                    answer.confidence,
                    answer.served_variant,
                    (now_ns - row.arrived_ns) // 1000,
                )
                self.shadows.offer(copy)


def rules_answer(row: Prepared, fallback: Fallback, attempts: Sequence[Attempt] = ()) -> prediction_pb2.PredictResponse:
    """Gives the rules' answer to a row, with why it is theirs and what was asked before."""
    family = row.route.family
    answer = prediction_pb2.PredictResponse(
        decision_id=row.decision_id,
        value=row.rules.value,
        confidence=row.rules.confidence,
        level=family.level(row.rules.value),
        assignment=row.assignment,
        served_variant=RULES,
        model_version=family.rules_version,
        fallback=int(fallback),  # type: ignore[arg-type]
        durability=prediction_pb2.DURABILITY_PENDING,
        reasons=row.rules.reasons,
    )
    if attempts:
        note_attempts(answer, attempts)
    return answer


def unrecorded(family: Family, decision_id: str, vector: Sequence[float]) -> prediction_pb2.PredictResponse:
    """Gives the rules' answer to a repeated call that could not wait for the first one's."""
    said = family.rules(family.row._make(vector))
    return prediction_pb2.PredictResponse(
        decision_id=decision_id,
        value=said.value,
        confidence=said.confidence,
        level=family.level(said.value),
        assignment=NO_ASSIGNMENT,
        served_variant=RULES,
        model_version=family.rules_version,
        fallback=prediction_pb2.FALLBACK_REASON_NO_TIME,
        reasons=said.reasons,
    )
