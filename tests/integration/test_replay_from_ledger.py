"""Every decision of a real router reaches a real ledger exactly once, and is chosen again from there, bit for bit."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from router.replay import replay
from services.hub.bootstrap import running as hub_running
from tests.integration.batches import answers, batch
from tests.integration.platform_under_test import ROW, Platform, experiment, platform
from turnout.v1 import ledger_pb2, prediction_pb2

BATCHES = 10
ROWS = 1000
STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {"kind": "random"},
    "weighted": {"kind": "weighted"},
    "round_robin": {"kind": "round_robin"},
    "time": {
        "kind": "time",
        "window_seconds": 1,
        "time_zone": "Europe/Berlin",
        "assignment": "seeded",
    },
}


async def listed(address: str) -> tuple[list[ledger_pb2.Decision], list[ledger_pb2.ExperimentSnapshot]]:
    """Gives everything that the ledger holds."""
    async with grpc.aio.insecure_channel(address) as channel:
        decisions: Any = channel.unary_stream(
            "/turnout.v1.LedgerService/ListDecisions",
            request_serializer=ledger_pb2.ListDecisionsRequest.SerializeToString,
            response_deserializer=ledger_pb2.ListDecisionsResponse.FromString,
        )
        snapshots: Any = channel.unary_stream(
            "/turnout.v1.LedgerService/ListSnapshots",
            request_serializer=ledger_pb2.ListSnapshotsRequest.SerializeToString,
            response_deserializer=ledger_pb2.ListSnapshotsResponse.FromString,
        )
        pages = decisions(ledger_pb2.ListDecisionsRequest(), timeout=20)
        found = [entry.decision async for page in pages for entry in page.entries]
        shots = [
            one async for page in snapshots(ledger_pb2.ListSnapshotsRequest(), timeout=20) for one in page.snapshots
        ]
    return found, shots


def rows(batch_number: int) -> list[prediction_pb2.PredictRequest]:
    """Rows with and without a unit, a region and an id of their own."""
    return [
        prediction_pb2.PredictRequest(
            decision_id=f"d-{batch_number}-{number}" if number % 3 else "",
            unit_id=f"unit-{batch_number}-{number % 700}" if number % 2 else "",
            region=f"region-{number % 5}" if number % 7 else "",
            numbers=ROW,
        )
        for number in range(ROWS)
    ]


async def decide(p: Platform) -> list[prediction_pb2.PredictResponse]:
    """Has 10 000 rows decided, two batches at a time, and some batches sent again."""
    given: list[prediction_pb2.PredictResponse] = []
    for number in range(0, BATCHES, 2):
        requests = [batch(rows(number + i)) for i in (0, 1)]
        for reply in await asyncio.gather(*(p.call("PredictBatch", one) for one in requests)):
            given += answers(reply)
    named = [row for row in rows(0) if row.decision_id]
    again = await p.call("PredictBatch", batch(named))
    first = {answer.decision_id: answer for answer in given}
    assert all(first[answer.decision_id] == answer for answer in answers(again))
    return given


@pytest.mark.parametrize("kind", STRATEGIES)
async def test_ten_thousand_decisions_replay_from_the_ledger(kind: str) -> None:
    """None is missing, none is there twice, and none is chosen otherwise."""
    configured = experiment(kind, rules=30, model=70, strategy=STRATEGIES[kind])
    async with platform(experiments={"dispatch": configured}) as p:
        given = await decide(p)
        async with hub_running(p.config_path, registry=CollectorRegistry(), drain_seconds=0) as hub:
            async with asyncio.timeout(20):
                while p.router.shipper.pending_bytes():
                    await asyncio.sleep(0.01)
            decisions, snapshots = await listed(hub.server.address)
    assert len(given) == BATCHES * ROWS
    said = {answer.decision_id: answer for answer in given}
    assert len(decisions) == len(said) == len(given)
    assert {d.decision_id: d.prediction for d in decisions} == said
    report = replay(decisions, snapshots)
    assert report.differences == ()
    assert (report.identical, report.clean) == (BATCHES * ROWS, True)
    if kind == "round_robin":
        assert sorted(d.prediction.assignment.sequence for d in decisions) == list(range(BATCHES * ROWS))
    arms = {d.prediction.assignment.arm for d in decisions}
    assert arms == {"control", "candidate"} or kind == "time"
