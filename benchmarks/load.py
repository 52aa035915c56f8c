"""Load from the measuring process: a fixed number of calls by a fixed number of callers, each with its latency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc

from services.client import TurnoutClient
from turnout.v1 import prediction_pb2

ROW: dict[str, float | str | bool] = {
    "severity": 4.0,
    "distance_km": 2.5,
    "availability": 0.6,
    "response_time_min": 6.5,
    "expertise": 0.8,
    "patient_age": 67.0,
    "total_paramedics": 2.0,
    "senior_ratio": 0.5,
    "average_satisfaction": 4.2,
    "hour": 17.0,
    "weekday": 4.0,
    "call_type": "cardiac",
}
NUMBERS = {name: value for name, value in ROW.items() if isinstance(value, float)}
CATEGORIES = {name: value for name, value in ROW.items() if isinstance(value, str)}
DEADLINE_SECONDS = 2.0
BATCH_ROWS = 64

Call = Callable[[int], Awaitable[object]]
"""Makes call number N and returns when it is answered."""


async def drive(call: Call, *, calls: int, callers: int) -> list[float]:
    """Makes the calls, each caller one after the other; gives their latencies in seconds."""
    numbers = iter(range(calls))
    latencies: list[float] = []

    async def caller() -> None:
        for number in numbers:
            begin = time.perf_counter()
            await call(number)
            latencies.append(time.perf_counter() - begin)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return latencies


def echo(channel: grpc.aio.Channel) -> Call:
    """Unary calls to the echo server."""
    method = channel.unary_unary(
        "/bench.Echo/Echo",
        request_serializer=prediction_pb2.PredictRequest.SerializeToString,
        response_deserializer=prediction_pb2.PredictRequest.FromString,
    )

    async def call(number: int) -> object:
        return await method(_request(number), timeout=DEADLINE_SECONDS)

    return call


def unary(channel: grpc.aio.Channel) -> Call:
    """Unary Predict calls to the router; fails when the model did not answer."""
    method = channel.unary_unary(
        "/turnout.v1.PredictionService/Predict",
        request_serializer=prediction_pb2.PredictRequest.SerializeToString,
        response_deserializer=prediction_pb2.PredictResponse.FromString,
    )

    async def call(number: int) -> object:
        answer: prediction_pb2.PredictResponse = await method(_request(number), timeout=DEADLINE_SECONDS)
        _by_the_model(answer.served_variant)
        return answer

    return call


def batch(channel: grpc.aio.Channel) -> Call:
    """PredictBatch calls of 64 rows to the router."""
    method = channel.unary_unary(
        "/turnout.v1.PredictionService/PredictBatch",
        request_serializer=prediction_pb2.PredictBatchRequest.SerializeToString,
        response_deserializer=prediction_pb2.PredictBatchResponse.FromString,
    )

    async def call(number: int) -> object:
        answer: prediction_pb2.PredictBatchResponse = await method(_batch(number), timeout=DEADLINE_SECONDS)
        _by_the_model(*{one.served_variant for one in answer.shared})
        return answer

    return call


def stream(client: TurnoutClient) -> Call:
    """Predictions through the SDK's stream."""

    async def call(number: int) -> object:
        answer = await client.predict("dispatch", ROW, unit_id=f"incident-{number}", timeout=DEADLINE_SECONDS)
        _by_the_model(answer.served_variant)
        return answer

    return call


def _request(number: int) -> prediction_pb2.PredictRequest:
    return prediction_pb2.PredictRequest(
        family="dispatch", unit_id=f"incident-{number}", numbers=NUMBERS, categories=CATEGORIES
    )


def _batch(number: int) -> prediction_pb2.PredictBatchRequest:
    """A request of 64 rows, each of a unit of its own, with the features of the single ones."""
    places = [1] * BATCH_ROWS
    return prediction_pb2.PredictBatchRequest(
        family="dispatch",
        rows=BATCH_ROWS,
        unit_ids=[f"incident-{number}-{row}" for row in range(BATCH_ROWS)],
        numbers={name: prediction_pb2.NumberColumn(values=[value] * BATCH_ROWS) for name, value in NUMBERS.items()},
        categories={
            name: prediction_pb2.CategoryColumn(values=[value], places=places) for name, value in CATEGORIES.items()
        },
    )


def _by_the_model(*variants: str) -> None:
    if "rules" in variants:
        raise RuntimeError("the rules answered: this run would not measure the model")
