"""The life of a batch: as that of a prediction in `router.deciding`, with all rows of one step taken together.

Every row gets the answer, the assignment and the record that it would get alone; only what rows share is done once. The
rules of a row are computed when they are needed, not ahead as for a single row: they are a pure function of the
validated row in this process, some microseconds within the time that is kept back for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Final, NamedTuple, TypeVar

from bentos.columns import Categories, ColumnEncoder, Columns, Vectors, of_row
from bentos.family import RULES, Family
from router.answers import ModelAnswers, Reply
from router.batch_answers import Answering, Answers, Asked, Part, reply_of
from router.deciding import Decider, unrecorded
from router.prepared import deadline_of, digest_of
from router.recent import Entry, answer_of
from router.resilience.budget import REPEAT_RESERVE_SECONDS
from router.resilience.reasons import Fallback
from router.routing import Route, choose_all
from router.shadow_records import Copy
from router.strategies import Assignment
from services.runtime.errors import AlreadyExists, InvalidArgument
from services.runtime.identifiers import MAX_TEXT, check_decision_id, check_text
from turnout.v1 import prediction_pb2

MAX_ROWS: Final = 1000
_UTF8_BYTES: Final = 4
"""Bytes of a character at most."""
T = TypeVar("T")


@dataclass(slots=True)
class Batch:
    """Validated rows of one family. What `admit` fills in stands at the end."""

    route: Route
    tenant: str
    decision_ids: list[str]
    unit_ids: Sequence[str]
    regions: Sequence[str]
    digests: Sequence[bytes]
    packed: bytes
    arrived_ns: int
    time_left: float
    attributes: Mapping[str, str]
    """Those that conditions of the family's experiments look at."""
    parts: list[Part] = field(default_factory=list)
    repeats: dict[int, Entry] = field(default_factory=dict)
    """By row, where a caller's id was seen before: the first call's answer is this one's too."""


class _Known(NamedTuple):
    """What is worked out once a family."""

    family: Family
    encoder: ColumnEncoder
    models: ModelAnswers


class Batches:
    """Answers batches with the means of a decider."""

    def __init__(self, decider: Decider) -> None:
        self._decider = decider
        self._families: dict[str, _Known] = {}

    def prepare(
        self,
        request: prediction_pb2.PredictBatchRequest,
        route: Route,
        attributes: Mapping[str, str],
        *,
        tenant: str,
        time_left: float | None,
    ) -> Batch:
        """Validates a batch; changes nothing.

        Raises:
            NotFound: the family is not served here.
            InvalidArgument: a row breaks the schema or a bound; names the row.
            DeadlineExceeded: no time is left.
        """
        arrived_ns = self._decider.monotonic_ns()
        rows = request.rows
        if not 1 <= rows <= MAX_ROWS:
            raise InvalidArgument("rows", f"rows must be 1 to {MAX_ROWS}, not {rows}")
        seconds = deadline_of(route, time_left)
        unit_ids = _texts("unit_ids", "unit_id", request.unit_ids, rows)
        regions = _texts("regions", "region", request.regions, rows)
        packed = self._known(route.family).encoder.encode(_columns(request))
        decision_ids, digests = self._named(request, route.family, unit_ids, regions, packed)
        return Batch(route, tenant, decision_ids, unit_ids, regions, digests, packed, arrived_ns, seconds, attributes)

    def admit(self, batch: Batch) -> None:
        """Takes a validated batch in, all or nothing: claims callers' ids, assigns the arms.

        Raises:
            AlreadyExists: a decision id was used with another body.
        """
        decider, rows = self._decider, len(batch.decision_ids)
        self._claim(batch)
        unnamed = batch.decision_ids.count("")
        made = decider.make_id.many(unnamed)
        if unnamed == rows:
            batch.decision_ids = made
        elif unnamed:
            ids = iter(made)
            batch.decision_ids = [decision_id or next(ids) for decision_id in batch.decision_ids]
        fresh = [row for row in range(rows) if row not in batch.repeats] if batch.repeats else range(rows)
        at_unix_us = decider.now_unix_us()
        chosen = choose_all(
            batch.route,
            decider.rotation,
            unit_ids=_taken(batch.unit_ids, fresh),
            decision_ids=_taken(batch.decision_ids, fresh),
            tenant=batch.tenant,
            regions=_taken(batch.regions, fresh),
            at_unix_us=at_unix_us,
            vectors=_taken(Vectors(batch.route.family.schema, batch.packed), fresh),
            attributes=batch.attributes,
            unevaluable=decider.experiment_metrics.unevaluable,
        )
        batch.parts = _parts(batch, fresh, chosen, at_unix_us)

    async def answer(self, batch: Batch) -> prediction_pb2.PredictBatchResponse:
        """Answers an admitted batch and records it. Never raises but on cancel."""
        parts = batch.parts
        try:
            if len(parts) == 1:
                await self._answer(batch, parts[0])
            else:
                await asyncio.gather(*(self._answer(batch, part) for part in parts))
        except asyncio.CancelledError:
            # The caller is gone; what was decided for it is recorded all the same, also where nobody was asked yet.
            for part in parts:
                if part.answers is None:
                    self._finish(batch, part, Reply(None, Fallback.CANCELLED, ""))
            raise
        repeated = {row: await self._repeated(batch, row, entry) for row, entry in batch.repeats.items()}
        return reply_of(len(batch.decision_ids), parts, repeated)

    async def _repeated(self, batch: Batch, row: int, entry: Entry) -> prediction_pb2.PredictResponse:
        """Answers a row whose decision an earlier call made; see `Decider.repeated`."""
        elapsed = (self._decider.monotonic_ns() - batch.arrived_ns) / 1e9
        answer = await answer_of(entry, batch.time_left - elapsed - REPEAT_RESERVE_SECONDS)
        if answer is not None:
            return answer
        schema = batch.route.family.schema
        vector = schema.decode(batch.packed[row * schema.row_bytes : (row + 1) * schema.row_bytes])
        return unrecorded(batch.route.family, batch.decision_ids[row], vector)

    def _known(self, family: Family) -> _Known:
        known = self._families.get(family.name)
        if known is None or known.family is not family:
            known = self._families[family.name] = _Known(family, ColumnEncoder(family.schema), ModelAnswers(family))
        return known

    def _named(
        self,
        request: prediction_pb2.PredictBatchRequest,
        family: Family,
        unit_ids: Sequence[str],
        regions: Sequence[str],
        packed_rows: bytes,
    ) -> tuple[list[str], Sequence[bytes]]:
        """Checks the callers' ids and gives them with the digests of their rows."""
        rows = request.rows
        decision_ids = list(request.decision_ids)
        _check_length("decision_ids", len(decision_ids), rows)
        if not any(decision_ids):
            return [""] * rows, (b"",) * rows
        digests = [b""] * rows
        size = family.schema.row_bytes
        for row in compress(range(rows), decision_ids):
            try:
                check_decision_id(decision_ids[row])
            except InvalidArgument as error:
                raise of_row(row, error) from None
            packed = packed_rows[row * size : (row + 1) * size]
            digests[row] = digest_of(family.name, unit_ids[row], regions[row], packed)
        return decision_ids, digests

    def _claim(self, batch: Batch) -> None:
        recent = self._decider.recent
        claimed: list[str] = []
        for row in compress(range(len(batch.digests)), batch.digests):
            decision_id = batch.decision_ids[row]
            try:
                entry = recent.claim(batch.tenant, decision_id, batch.digests[row])
            except AlreadyExists:
                for taken in claimed:
                    recent.release(batch.tenant, taken)
                raise
            if entry is None:
                claimed.append(decision_id)
            else:
                batch.repeats[row] = entry

    async def _answer(self, batch: Batch, part: Part) -> None:
        decider, asked = self._decider, part.asked
        elapsed = (decider.monotonic_ns() - batch.arrived_ns) / 1e9
        rows = len(asked.decision_ids)
        left = batch.time_left - elapsed
        reply = await decider.asking.ask(batch.route, part.variant, asked.packed, rows, time_left=left, gone=elapsed)
        self._finish(batch, part, reply)
        if decider.wait_for_commit and await decider.journal.committed() and part.answers is not None:
            for shared in part.answers.shared:
                shared.durability = prediction_pb2.DURABILITY_DURABLE
            # A repeated call hears the very same.
            self._settle(part)
        decider.metrics.latency(batch.route.family.name, (decider.monotonic_ns() - batch.arrived_ns) / 1e9)

    def _finish(self, batch: Batch, part: Part, reply: Reply) -> None:
        """Chooses between the arm's answers and the rules', and writes the journal before anybody hears of them."""
        decider, family = self._decider, batch.route.family
        answering = Answering(
            part.asked,
            reply,
            self._known(family).models,
            assignments=decider.assignments,
        )
        latency_us = (decider.monotonic_ns() - batch.arrived_ns) // 1000
        records = answering.fill(router=decider.router, latency_us=latency_us)
        decider.recent.remember_all(batch.tenant, part.asked.decision_ids, family.name)
        decider.journal.append(records)
        part.answers = answering.answers
        self._settle(part)
        if batch.route.shadowed:
            self._shadow(batch, part.asked, part.answers, latency_us)
        for labels, count in part.answers.counts().items():
            decider.metrics.predictions(family.name, labels, count)

    def _shadow(self, batch: Batch, asked: Asked, answers: Answers, latency_us: int) -> None:
        size = batch.route.family.schema.row_bytes
        for place, (decision_id, chosen) in enumerate(zip(asked.decision_ids, asked.chosen, strict=True)):
            if chosen is not None and chosen.experiment:
                copy = Copy(
                    batch.route,
                    chosen.experiment,
                    asked.tenant,
                    decision_id,
                    asked.packed[place * size : (place + 1) * size],
                    asked.at_unix_us,
                    answers.values[place],
                    answers.confidences[place],
                    answers.shared[answers.shared_places[place]].served_variant,
                    latency_us,
                )
                self._decider.shadows.offer(copy)

    def _settle(self, part: Part) -> None:
        asked, answers = part.asked, part.answers
        if answers is None:
            return
        for place in compress(range(len(asked.digests)), asked.digests):
            decision_id = asked.decision_ids[place]
            self._decider.recent.settle(asked.tenant, decision_id, answers.answer(place, decision_id))


def _columns(request: prediction_pb2.PredictBatchRequest) -> Columns:
    # Slices of a message's lists are plain lists, which are much faster to read.
    numbers, categories, flags = request.numbers, request.categories, request.flags
    return Columns(
        request.rows,
        {name: numbers[name].values[:] for name in numbers},
        {name: Categories(categories[name].values[:], categories[name].places[:]) for name in categories},
        {name: flags[name].values[:] for name in flags},
    )


def _texts(field_name: str, single: str, given: Sequence[str], rows: int) -> Sequence[str]:
    """Gives one text a row, empty ones when none was given."""
    _check_length(field_name, len(given), rows)
    if not given:
        return ("",) * rows
    texts = list(given)
    if max(map(len, texts)) * _UTF8_BYTES > MAX_TEXT:
        for row, text in enumerate(texts):
            try:
                check_text(single, text)
            except InvalidArgument as error:
                raise of_row(row, error) from None
    return texts


def _check_length(field_name: str, entries: int, rows: int) -> None:
    if entries not in (0, rows):
        raise InvalidArgument(field_name, f"{field_name} must be empty or have one entry a row, {rows}, not {entries}")


def _parts(batch: Batch, fresh: Sequence[int], chosen: Sequence[Assignment | None], at_unix_us: int) -> list[Part]:
    """Gathers the rows that can travel to their arm together, keeping their order."""
    family = batch.route.family
    size = family.schema.row_bytes
    variants = [RULES if one is None else one.variant for one in chosen]
    parts = []
    for variant in dict.fromkeys(variants):
        places = [place for place, one in enumerate(variants) if one == variant]
        rows = _taken(fresh, places)
        whole = len(rows) == len(batch.decision_ids)
        packed = batch.packed
        asked = Asked(
            tenant=batch.tenant,
            decision_ids=_taken(batch.decision_ids, rows),
            unit_ids=_taken(batch.unit_ids, rows),
            regions=_taken(batch.regions, rows),
            digests=_taken(batch.digests, rows),
            attributes=batch.attributes,
            packed=packed if whole else b"".join([packed[row * size : (row + 1) * size] for row in rows]),
            chosen=_taken(chosen, places),
            at_unix_us=at_unix_us,
        )
        parts.append(Part(variant, rows, asked))
    return parts


def _taken(values: Sequence[T], rows: Sequence[int]) -> Sequence[T]:
    """Gives the values of rows in rising order; all of them as they are."""
    return values if len(rows) == len(values) else [values[row] for row in rows]
