"""dispatch.v1 over gRPC, with a real router behind it."""

from __future__ import annotations

import grpc
import pytest

from dispatch.v1 import dispatch_pb2
from services.dispatch.bootstrap import running
from tests.integration.platform_under_test import Caller, platform

SERVICE = dispatch_pb2.DESCRIPTOR.services_by_name["DispatchService"]
REQUEST = dispatch_pb2.RecommendRequest(
    incident=dispatch_pb2.Incident(
        incident_id="i-1", severity=4, call_type="cardiac", region="north", hour=12.5, weekday=3
    ),
    candidates=[
        dispatch_pb2.CandidateUnit(unit_id="far", distance_km=30, response_time_min=40),
        dispatch_pb2.CandidateUnit(unit_id="near", distance_km=1, response_time_min=3),
    ],
)


async def test_a_dispatcher_gets_a_ranking_and_reports_how_it_went() -> None:
    """Candidates of an incident share its arm; the report becomes the outcome of the chosen decision."""
    async with platform() as p, running(p.router.server.address, "127.0.0.1:0", token=None) as server:
        p.model.behaviour = lambda row: 0.9 if row[1] < 2 else 0.2
        call = Caller(server.address, SERVICE)
        reply = await call("Recommend", REQUEST)
        assert [unit.unit_id for unit in reply.units] == ["near", "far"]
        assert {unit.served_variant for unit in reply.units} == {"fake"}
        decisions = {decision.decision_id: decision for decision in p.decisions()}
        assert {d.unit_id for d in decisions.values()} == {"i-1"}
        await call("Report", dispatch_pb2.ReportRequest(decision_id=reply.units[0].decision_id, success=True))
        outcomes = [record.outcome for record in p.records() if record.HasField("outcome")]
        assert [(o.decision_id, o.value) for o in outcomes] == [(reply.units[0].decision_id, 1.0)]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call("Recommend", dispatch_pb2.RecommendRequest(incident=REQUEST.incident))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await call.close()


async def test_without_a_router_the_rules_rank() -> None:
    """The dispatcher's answer needs nothing but this process."""
    async with running("unix:/nonexistent/router.sock", "127.0.0.1:0", token=None) as server:
        call = Caller(server.address, SERVICE)
        reply = await call("Recommend", REQUEST)
        assert [unit.unit_id for unit in reply.units] == ["near", "far"]
        assert {unit.served_variant for unit in reply.units} == {"rules"}
        await call.close()
