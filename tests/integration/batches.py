"""Batches row by row: what the tests that think in rows put together and take apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bentos.columns import Categories, Columns, row_of
from services.client.features import Kinds, Row, batch_of
from turnout.v1 import prediction_pb2 as pb


def batch(rows: Iterable[pb.PredictRequest], family: str = "dispatch") -> pb.PredictBatchRequest:
    """The request for rows, whatever family they name themselves."""
    return batch_of(
        family,
        [
            Row(
                row.decision_id,
                row.unit_id,
                row.region,
                Kinds(dict(row.numbers), dict(row.categories), dict(row.flags)),
            )
            for row in rows
        ],
    )


def rows_of(request: pb.PredictBatchRequest) -> list[pb.PredictRequest]:
    """The rows of a request."""
    columns = Columns(
        request.rows,
        {name: column.values for name, column in request.numbers.items()},
        {name: Categories(column.values, column.places) for name, column in request.categories.items()},
        {name: column.values for name, column in request.flags.items()},
    )
    rows = []
    for row in range(request.rows):
        numbers, categories, flags = row_of(columns, row)
        rows.append(
            pb.PredictRequest(
                family=request.family,
                decision_id=request.decision_ids[row] if request.decision_ids else "",
                unit_id=request.unit_ids[row] if request.unit_ids else "",
                region=request.regions[row] if request.regions else "",
                numbers=numbers,
                categories=categories,
                flags=flags,
            )
        )
    return rows


def reply_of(answers: Sequence[pb.PredictResponse]) -> pb.PredictBatchResponse:
    """The reply that gives these answers."""
    reply = pb.PredictBatchResponse()
    for row, answer in enumerate(answers):
        shared = pb.PredictResponse()
        shared.CopyFrom(answer)
        for name in ("decision_id", "value", "confidence", "reasons"):
            shared.ClearField(name)
        reply.decision_ids.append(answer.decision_id)
        reply.values.append(answer.value)
        reply.confidences.append(answer.confidence)
        reply.shared.append(shared)
        reply.shared_places.append(row)
        if answer.reasons:
            reply.reasons.add(row=row, reasons=answer.reasons)
    return reply


def answers(reply: pb.PredictBatchResponse) -> list[pb.PredictResponse]:
    """The answers of a reply."""
    said = {one.row: one.reasons for one in reply.reasons}
    found = []
    for row, place in enumerate(reply.shared_places):
        answer = pb.PredictResponse()
        answer.CopyFrom(reply.shared[place])
        answer.decision_id = reply.decision_ids[row]
        answer.value = reply.values[row]
        answer.confidence = reply.confidences[row]
        answer.reasons.extend(said.get(row, ()))
        found.append(answer)
    return found
