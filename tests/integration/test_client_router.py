"""The client against the real router: both sides of the contract meet."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import pytest

from dispatch.v1 import dispatch_pb2
from services.client import Durability, FallbackReason, Outcome, TurnoutClient
from services.dispatch.service import DispatchService, Predictor
from services.runtime.errors import AlreadyExists, InvalidArgument, NotFound
from tests.integration.platform_under_test import ROW, platform


@pytest.mark.parametrize("transport", ["stream", "unary"])
async def test_predictions_and_outcomes_meet_the_router(transport: Literal["stream", "unary"]) -> None:
    """The arm answers, a repeated id gets the same answer, errors keep class and field, outcomes are taken."""
    async with platform() as p, TurnoutClient(p.router.server.address, transport=transport) as client:
        assert await client.ready(5)
        answers = await asyncio.gather(*(client.predict("dispatch", ROW, unit_id=f"u-{n}") for n in range(40)))
        assert [answer.value for answer in answers] == pytest.approx([0.4] * 40)
        assert {(answer.served_variant, answer.fallback) for answer in answers} == {("fake", FallbackReason.NONE)}
        first = await client.predict("dispatch", ROW, decision_id="d-1")
        again = await client.predict("dispatch", ROW, decision_id="d-1")
        assert (first.decision_id, first.value, first.assignment) == ("d-1", again.value, again.assignment)
        with pytest.raises(AlreadyExists):
            await client.predict("dispatch", {"severity": 1.0}, decision_id="d-1")
        with pytest.raises(InvalidArgument) as caught:
            await client.predict("dispatch", {"severity": 99})
        assert caught.value.field == "numbers[severity]"
        with pytest.raises(NotFound):
            await client.predict("no_such_family", ROW)
        batch = await client.predict_batch("dispatch", [ROW, ROW])
        results = await client.record_outcomes([Outcome(answer.decision_id, 1.0) for answer in (first, *batch)])
        assert all(isinstance(result, Durability) and result is not Durability.NONE for result in results)
        assert (client.statistics.answered_locally, client.statistics.resent) == (0, 0)


async def test_the_dispatch_service_asks_through_the_client() -> None:
    """A ranking comes from the arm, under decisions that stand in the journal."""
    async with platform() as p, TurnoutClient(p.router.server.address) as client:
        predictor: Predictor = client
        service = DispatchService(predictor, new_id=lambda: "by-the-rules", now=time.time)
        units = [dispatch_pb2.CandidateUnit(unit_id=unit, distance_km=2.0) for unit in ("A1", "A2")]
        incident = dispatch_pb2.Incident(incident_id="incident-7", severity=4, call_type="cardiac", hour=13, weekday=2)
        request = dispatch_pb2.RecommendRequest(incident=incident, candidates=units)
        reply = await service.recommend(request, _Call())
        assert {(unit.unit_id, unit.served_variant) for unit in reply.units} == {("A1", "fake"), ("A2", "fake")}
        await service.report(dispatch_pb2.ReportRequest(decision_id=reply.units[0].decision_id, success=True), _Call())
        assert {d.prediction.decision_id for d in p.decisions()} == {unit.decision_id for unit in reply.units}
        assert service.answered_by_predictor == 1


class _Call:
    """A call without a deadline."""

    tenant = "default"
    peer = "test"

    def metadata(self) -> dict[str, str]:
        return {}

    def time_left(self) -> float | None:
        return None
