"""Wrong outcomes on their whole way: a caller's call, the router's journal, the hub, the ledger's rows and totals."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, func, select

from monitoring.ledger.aggregates import window_totals
from monitoring.ledger.tables import OUTCOMES, SET_ASIDE
from monitoring.ledger.tally import Count
from services.hub.bootstrap import running as hub_running
from services.runtime.database import open_database
from tests.integration.platform_under_test import ROW, Platform, platform
from turnout.v1 import prediction_pb2 as pb

TENANTS = {name: {"token_sha256": hashlib.sha256(f"of {name}".encode()).hexdigest()} for name in ("a", "b")}
Code = grpc.StatusCode


async def record(p: Platform, tenant: str, decision_id: str, value: float, *, at: int = 0) -> None:
    request = pb.RecordOutcomeRequest(decision_id=decision_id, value=value, occurred_at_unix_us=at)
    await p.call("RecordOutcome", request, metadata=[("authorization", f"bearer of {tenant}")])


async def refused(p: Platform, tenant: str, decision_id: str, value: float, *, at: int = 0) -> Code:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await record(p, tenant, decision_id, value, at=at)
    return caught.value.code()


async def predict(p: Platform, tenant: str, decision_id: str) -> None:
    request = pb.PredictRequest(family="dispatch", numbers=ROW, decision_id=decision_id)
    await p.call("Predict", request, metadata=[("authorization", f"bearer of {tenant}")])


async def shipped(p: Platform) -> None:
    async with asyncio.timeout(20):
        while p.router.shipper.pending_bytes():
            await asyncio.sleep(0.01)


def stored(connection: Connection) -> dict[tuple[str, str], tuple[float, bool]]:
    """Gives each outcome's value, and whether it was joined to a decision."""
    return {
        (row.tenant, row.decision_id): (row.value, row.family is not None)
        for row in connection.execute(select(OUTCOMES))
    }


async def test_wrong_outcomes_never_reach_a_decision(database_url: str, tmp_path: Path) -> None:
    """Unknown, another tenant's, of the wrong kind, NaN, ahead of time: refused, or kept apart until it is known."""
    hub = {"grpc": f"unix:{tmp_path}/hub.sock", "database_url": database_url}
    async with platform(tenants=TENANTS, hub=hub) as p:
        await predict(p, "a", "same")
        # The ledger is away: what nobody can judge yet is taken, for the tenant who says so.
        await record(p, "b", "same", 0.0)
        await record(p, "a", "later", 0.5)
        await predict(p, "a", "later")
        ahead = time.time_ns() // 1000 + 3_600_000_000
        for value, at in ((math.nan, 0), (0.5, 0), (math.inf, 0), (1.0, ahead), (1.0, -1)):
            assert await refused(p, "a", "same", value, at=at) is Code.INVALID_ARGUMENT
        async with hub_running(p.config_path, registry=CollectorRegistry(), drain_seconds=0):
            await shipped(p)
            # Now the ledger can tell.
            assert await refused(p, "b", "same", 1.0) is Code.NOT_FOUND
            assert await refused(p, "b", "later", 1.0) is Code.NOT_FOUND
            assert await refused(p, "a", "nobody", 1.0) is Code.NOT_FOUND
            await record(p, "a", "same", 1.0)
            await shipped(p)
    with open_database(database_url) as database:
        outcomes = database.read_now(stored)
        totals: Any = database.read_now(window_totals, "dispatch", by=("tenant",), populations=None)
        aside = database.read_now(lambda c: c.scalar(select(func.count()).select_from(SET_ASIDE)))
    assert outcomes == {("a", "same"): (1.0, True), ("a", "later"): (0.5, True), ("b", "same"): (0.0, False)}
    assert set(totals) == {("a",)}
    found = totals["a",]
    assert (found.decisions, found.outcomes, found.count(Count.UNFIT)) == (2, 1, 1)
    assert aside == 0
