"""Answers to rows that were asked together, by column, and the journal's records of them.

What rows have in common (arm, variant, version, level, …) is made once, as an answer without a row and as the first
part of a record: a protobuf message that is followed by another of its kind is read as both merged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bentos.family import RULES, RulesAnswer
from router.answers import LONGEST_US, NO_ASSIGNMENT, Assignments, ModelAnswers, Reply, note_attempts
from router.resilience.reasons import Fallback
from router.strategies import Assignment
from turnout.v1 import ledger_pb2, prediction_pb2

_BY_MODEL: Final = -1
"""In the place of a reason for a fallback, all of which are 0 or more."""
_ROWS_OWN: Final = ("decision_id", "value", "confidence", "reasons")


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows of one family that one variant was asked for, by column."""

    tenant: str
    decision_ids: Sequence[str]
    unit_ids: Sequence[str]
    regions: Sequence[str]
    digests: Sequence[bytes]
    """Empty for a decision whose id the router made."""
    attributes: Mapping[str, str]
    """Those that conditions of the family's experiments look at, of all rows alike."""
    packed: bytes
    chosen: Sequence[Assignment | None]
    """None without an experiment; the same object for the same assignment."""
    at_unix_us: int


@dataclass(slots=True)
class Answers:
    """Answers to the rows of an `Asked`, by column, as in PredictBatchResponse."""

    values: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    shared: list[prediction_pb2.PredictResponse] = field(default_factory=list)
    shared_places: list[int] = field(default_factory=list)
    reasons: dict[int, Sequence[str]] = field(default_factory=dict)

    def answer(self, row: int, decision_id: str) -> prediction_pb2.PredictResponse:
        """Gives the answer to one row, as Predict would."""
        answer = prediction_pb2.PredictResponse()
        answer.CopyFrom(self.shared[self.shared_places[row]])
        answer.decision_id = decision_id
        answer.value = self.values[row]
        answer.confidence = self.confidences[row]
        answer.reasons.extend(self.reasons.get(row, ()))
        return answer

    def counts(self) -> Counter[tuple[str, str, str, int]]:
        """Counts the answers by experiment, assigned arm, served variant and reason of the fallback."""
        found: Counter[tuple[str, str, str, int]] = Counter()
        for place, count in Counter(self.shared_places).items():
            one = self.shared[place]
            assignment = one.assignment
            found[assignment.experiment, assignment.arm, one.served_variant, int(one.fallback)] += count
        return found


class Answering:
    """Answers one `Asked` and writes its records; used once, so that no message is kept for good."""

    def __init__(self, asked: Asked, reply: Reply, models: ModelAnswers, *, assignments: Assignments) -> None:
        self._asked = asked
        self._reply = reply
        self._models = models
        self._assignments = assignments
        self._places: dict[tuple[int, str, int], int] = {}
        self._prefixes: list[bytes] = []
        self._common = ledger_pb2.JournalRecord()
        self.answers = Answers()

    def fill(self, *, router: str, latency_us: int) -> list[bytes]:
        """Fills `answers` and gives the journal's records of them."""
        asked, family = self._asked, self._models.family
        decision = self._common.decision
        decision.router = router
        decision.family = family.name
        decision.schema_digest = family.schema.digest
        decision.tenant = asked.tenant
        decision.assigned_at_unix_us = asked.at_unix_us
        decision.attributes.update(asked.attributes)
        decision.latency_us = min(latency_us, LONGEST_US)
        values = self._reply.values
        if values is None or not self._reply.plain or not self._models.all_usable(values):
            for row in range(len(asked.decision_ids)):
                self._answer(row)
        else:
            self._all_by_model(values)
        return self._records()

    def _all_by_model(self, values: Sequence[float]) -> None:
        """Takes the arm's answers to all rows: what `_answer` does for each."""
        answers, family = self.answers, self._models.family
        answers.values = list(values)
        answers.confidences = list(map(family.confidence, values))
        levels, all_chosen, share = list(map(family.level, values)), self._asked.chosen, self._share
        first = all_chosen[0]
        if all(chosen is first for chosen in all_chosen):
            places = {level: share((id(first), level, _BY_MODEL), first) for level in dict.fromkeys(levels)}
            answers.shared_places = [places[level] for level in levels]
            return
        for chosen, level in zip(all_chosen, levels, strict=True):
            key = (id(chosen), level, _BY_MODEL)
            place = self._places.get(key)
            answers.shared_places.append(share(key, chosen) if place is None else place)

    def _answer(self, row: int) -> None:
        """Chooses between the arm's answer to a row and the rules'."""
        answers, family = self.answers, self._models.family
        chosen = self._asked.chosen[row]
        judged = self._models.judge(self._reply, row)
        if isinstance(judged, Fallback):
            by = int(judged)
            value, confidence, answers.reasons[row] = self._rules(row)
        else:
            by = _BY_MODEL
            value, confidence = judged, family.confidence(judged)
        key = (id(chosen), family.level(value), by)
        place = self._places.get(key)
        answers.values.append(value)
        answers.confidences.append(confidence)
        answers.shared_places.append(self._share(key, chosen) if place is None else place)

    def _rules(self, row: int) -> RulesAnswer:
        """Computes the rules' answer: a pure function of the validated row, so that it may wait until it is needed."""
        family = self._models.family
        size = family.schema.row_bytes
        vector = family.schema.decode(self._asked.packed[row * size : (row + 1) * size])
        return family.rules(family.row._make(vector))

    def _records(self) -> list[bytes]:
        asked, answers, prefixes = self._asked, self.answers, self._prefixes
        size = self._models.family.schema.row_bytes
        starts = range(0, len(asked.packed), size)
        record = ledger_pb2.JournalRecord()
        decision = record.decision
        prediction = decision.prediction
        serialized = record.SerializeToString
        units, digests = any(asked.unit_ids), any(asked.digests)
        others = any(asked.regions) or bool(answers.reasons)
        records: list[bytes] = []
        for row, (decision_id, start, value, confidence, place) in enumerate(
            zip(asked.decision_ids, starts, answers.values, answers.confidences, answers.shared_places, strict=True)
        ):
            decision.decision_id = prediction.decision_id = decision_id
            decision.features = asked.packed[start : start + size]
            prediction.value = value
            prediction.confidence = confidence
            if units:
                decision.unit_id = asked.unit_ids[row]
            if digests:
                decision.request_digest = asked.digests[row]
            if others:
                decision.region = asked.regions[row]
                prediction.ClearField("reasons")
                prediction.reasons.extend(answers.reasons.get(row, ()))
            records.append(prefixes[place] + serialized())
        return records

    def _share(self, key: tuple[int, str, int], chosen: Assignment | None) -> int:
        """Makes what answers of one kind have in common, and the beginning of their records."""
        _, level, fallback = key
        by_model = fallback == _BY_MODEL
        shared = prediction_pb2.PredictResponse(
            level=level,
            assignment=NO_ASSIGNMENT if chosen is None else self._assignments.message(chosen),
            served_variant=self._reply.variant if by_model else RULES,
            model_version=self._reply.version if by_model else self._models.family.rules_version,
            fallback=int(self._reply.fallback) if by_model else fallback,  # type: ignore[arg-type]
            durability=prediction_pb2.DURABILITY_PENDING,
        )
        if self._reply.attempts:
            note_attempts(shared, self._reply.attempts)
        self._common.decision.prediction.CopyFrom(shared)
        place = self._places[key] = len(self._prefixes)
        self._prefixes.append(self._common.SerializeToString())
        self.answers.shared.append(shared)
        return place


@dataclass(slots=True)
class Part:
    """Rows of a batch that one variant answers together. `answers` is set when they are answered and recorded."""

    variant: str
    rows: Sequence[int]
    """Their places in the batch."""
    asked: Asked
    answers: Answers | None = None


def reply_of(
    rows: int, parts: Sequence[Part], repeated: Mapping[int, prediction_pb2.PredictResponse]
) -> prediction_pb2.PredictBatchResponse:
    """Puts answered parts, and answers that were given before, into the batch's order."""
    if len(parts) == 1 and not repeated and parts[0].answers is not None:
        return _message(parts[0].asked.decision_ids, parts[0].answers)
    decision_ids = [""] * rows
    gathered = Answers([0.0] * rows, [0.0] * rows, [], [0] * rows, {})
    for part in parts:
        answers = part.answers
        if answers is None:
            raise AssertionError("a part was not answered")
        before = len(gathered.shared)
        gathered.shared += answers.shared
        for place, row in enumerate(part.rows):
            decision_ids[row] = part.asked.decision_ids[place]
            gathered.values[row] = answers.values[place]
            gathered.confidences[row] = answers.confidences[place]
            gathered.shared_places[row] = before + answers.shared_places[place]
        gathered.reasons |= {part.rows[place]: said for place, said in answers.reasons.items()}
    for row, answer in repeated.items():
        decision_ids[row] = answer.decision_id
        gathered.values[row] = answer.value
        gathered.confidences[row] = answer.confidence
        if answer.reasons:
            gathered.reasons[row] = tuple(answer.reasons)
        shared = prediction_pb2.PredictResponse()
        shared.CopyFrom(answer)
        for name in _ROWS_OWN:
            shared.ClearField(name)
        if shared not in gathered.shared[-1:]:
            gathered.shared.append(shared)
        gathered.shared_places[row] = len(gathered.shared) - 1
    return _message(decision_ids, gathered)


def _message(decision_ids: Sequence[str], answers: Answers) -> prediction_pb2.PredictBatchResponse:
    return prediction_pb2.PredictBatchResponse(
        decision_ids=decision_ids,
        values=answers.values,
        confidences=answers.confidences,
        shared=answers.shared,
        shared_places=answers.shared_places,
        reasons=[
            prediction_pb2.RowReasons(row=row, reasons=said) for row, said in sorted(answers.reasons.items()) if said
        ],
    )
