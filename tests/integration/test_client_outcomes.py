"""Outcomes: retried while that can help, counted whatever becomes of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta, timezone

import pytest

from services.client import (
    Backoff,
    ClientSettings,
    Durability,
    LinkSettings,
    Outcome,
    OutcomeSettings,
    OutcomeStatistics,
    TurnoutClient,
)
from services.runtime.errors import InvalidArgument, NotFound, ResourceExhausted, TurnoutError, Unavailable
from tests.integration.client_under_test import ROW, FakeRouter, echo, routing, silent
from turnout.v1 import prediction_pb2 as pb

QUICK = Backoff(0.001, 0.01)
OPTIONS = ClientSettings(
    close_timeout=0.0,
    link=LinkSettings(backoff=QUICK, away_after=0.01),
    outcomes=OutcomeSettings(backoff=QUICK, unknown_grace=0.3, queue_bound=1000),
)


async def test_an_outcome_arrives_with_its_instant() -> None:
    """An aware time is sent as the instant that it is; without one the client's clock says when."""
    router = FakeRouter()
    async with (
        routing(router) as server,
        TurnoutClient(server.address, settings=OPTIONS, now=lambda: 1_700_000_000.25) as client,
    ):
        at = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
        await client.record_outcome("d-1", 1.0, occurred_at=at)
        await client.record_outcome("d-2", 0.0)
        with pytest.raises(InvalidArgument) as caught:
            await client.record_outcome("d-3", 1.0, occurred_at=at.replace(tzinfo=None))
        assert caught.value.field == "occurred_at"
    first, second = router.outcomes
    assert (first.decision_id, first.value) == ("d-1", 1.0)
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=first.occurred_at_unix_us) == at
    assert (second.decision_id, second.occurred_at_unix_us) == ("d-2", 1_700_000_000_250_000)


@pytest.mark.parametrize(
    "error", [Unavailable("", "away"), ResourceExhausted("", "busy"), NotFound("decision_id", "?")]
)
async def test_what_may_pass_is_tried_again(error: TurnoutError) -> None:
    """A router that is busy, or has not heard of the decision yet, is asked again with those outcomes only."""
    router = FakeRouter()
    failures = 3

    def outcome(request: pb.RecordOutcomeRequest) -> TurnoutError | None:
        nonlocal failures
        if request.decision_id == "d-late" and failures:
            failures -= 1
            return error
        return None

    router.outcome = outcome
    async with routing(router) as server, TurnoutClient(server.address, settings=OPTIONS) as client:
        results = await client.record_outcomes([Outcome("d-1", 1.0), Outcome("d-late", 0.0)])
        assert results == [Durability.DURABLE, Durability.DURABLE]
    assert [o.decision_id for o in router.outcomes] == ["d-1", "d-late", "d-late", "d-late", "d-late"]


async def test_a_cost_travels_with_its_outcome() -> None:
    """Also through the background sender; nothing is made up where nobody said."""
    router = FakeRouter()
    async with routing(router) as server, TurnoutClient(server.address, settings=OPTIONS) as client:
        await client.record_outcome("d-1", 1.0, cost=12.5)
        assert client.report_outcome("d-2", 1.0, cost=0.0)
        assert client.report_outcome("d-3", 1.0)
        assert await client.flush(5.0)
    assert [o.cost if o.HasField("cost") else None for o in router.outcomes] == [12.5, 0.0, None]


async def test_what_cannot_pass_is_raised() -> None:
    """A wrong value is refused at once; a decision that stays unknown is refused after the grace."""
    router = FakeRouter()
    async with routing(router) as server, TurnoutClient(server.address, settings=OPTIONS) as client:
        router.outcome = lambda _: InvalidArgument("value", "value must be 0 or 1")
        with pytest.raises(InvalidArgument):
            await client.record_outcome("d-1", 7.0)
        assert len(router.outcomes) == 1
        router.outcome = lambda _: NotFound("decision_id", "nobody made this decision")
        with pytest.raises(NotFound):
            await client.record_outcome("d-2", 1.0)
        router.outcome = lambda _: ResourceExhausted("", "busy")
        with pytest.raises(ResourceExhausted):
            await client.record_outcome("d-3", 1.0, timeout=0.05)


async def test_an_outcome_waits_for_a_router_that_comes_back() -> None:
    """The router is away when the outcome is recorded, and there before the time is up."""
    router = FakeRouter()
    async with AsyncExitStack() as stack:
        address = (await stack.enter_async_context(routing(router))).address
        async with TurnoutClient(address, settings=OPTIONS) as client:
            await client.record_outcome("d-1", 1.0)
            await stack.aclose()
            recording = asyncio.create_task(client.record_outcome("d-2", 1.0))
            assert not await client.ready(0.02)
            async with routing(router, address):
                await recording
    assert [outcome.decision_id for outcome in router.outcomes] == ["d-1", "d-2"]


async def test_reported_outcomes_are_delivered_in_the_background() -> None:
    """More than two calls' worth arrives, each once and in order, and the statistics say so."""
    router = FakeRouter()
    options = ClientSettings(outcomes=OutcomeSettings(backoff=QUICK))
    async with routing(router) as server, TurnoutClient(server.address, settings=options) as client:
        for number in range(2500):
            assert client.report_outcome(f"d-{number}", 1.0)
        assert client.statistics.outcomes.pending == 2500
        assert await client.flush(10)
        assert client.statistics.outcomes == OutcomeStatistics(sent=2500, pending=0, dropped=0, refused=0, local=0)
    assert [outcome.decision_id for outcome in router.outcomes] == [f"d-{number}" for number in range(2500)]


async def test_a_full_queue_drops_and_counts_and_nothing_else_does() -> None:
    """A bound of 1 000 with the router away: the rest is dropped; once it is back the thousand arrive."""
    router = FakeRouter()
    async with AsyncExitStack() as stack:
        address = (await stack.enter_async_context(routing(router))).address
        await stack.aclose()
        async with TurnoutClient(address, settings=OPTIONS) as client:
            taken = [client.report_outcome(f"d-{number}", 1.0) for number in range(1010)]
            assert taken == [True] * 1000 + [False] * 10
            assert not await client.flush(0.05)
            assert client.statistics.outcomes == OutcomeStatistics(0, 1000, 10, 0, 0)
            async with routing(router, address):
                assert await client.flush(10)
            assert client.statistics.outcomes == OutcomeStatistics(1000, 0, 10, 0, 0)
    assert len(router.outcomes) == 1000


async def test_a_refused_report_is_counted_and_holds_up_nobody() -> None:
    """The router refuses one of two: the other is sent."""
    router = FakeRouter(outcome=lambda o: InvalidArgument("value", "must be 0 or 1") if o.value > 1 else None)
    async with routing(router) as server, TurnoutClient(server.address, settings=OPTIONS) as client:
        client.report_outcome("d-1", 7.0)
        client.report_outcome("d-2", 1.0)
        assert await client.flush(10)
        assert client.statistics.outcomes == OutcomeStatistics(sent=1, pending=0, dropped=0, refused=1, local=0)
        with pytest.raises(InvalidArgument):
            client.report_outcome("not an id", 1.0)


async def test_the_outcome_of_a_decision_that_never_left_is_counted_and_not_sent() -> None:
    """The router was away: it cannot know the decision, whose outcome belongs to no arm."""
    router = FakeRouter()
    async with AsyncExitStack() as stack:
        address = (await stack.enter_async_context(routing(router))).address
        await stack.aclose()
        async with TurnoutClient(address, settings=OPTIONS) as client:
            answer = await client.predict("dispatch", ROW)
            async with routing(router, address):
                assert await client.ready(5)
                await client.record_outcome(answer.decision_id, 1.0)
                client.report_outcome(answer.decision_id, 1.0)
                assert await client.flush(5)
            assert client.statistics.local_outcomes == 2
            assert client.statistics.outcomes.local == 1
    assert router.outcomes == []


async def test_the_outcome_of_a_decision_that_timed_out_is_sent_because_the_router_may_have_made_it() -> None:
    """The router decided, but too late for the caller: the outcome joins the assigned arm, or is counted as local."""
    router = FakeRouter(behaviour=silent)
    async with routing(router) as server, TurnoutClient(server.address, settings=OPTIONS) as client:
        known = await client.predict("dispatch", ROW, timeout=0.05)
        unknown = await client.predict("dispatch", ROW, timeout=0.05)
        router.outcome = lambda o: NotFound("decision_id", "?") if o.decision_id == unknown.decision_id else None
        results = await client.record_outcomes([Outcome(known.decision_id, 1.0), Outcome(unknown.decision_id, 0.0)])
        assert results == [Durability.DURABLE, Durability.NONE]
        assert client.statistics.local_outcomes == 1
        router.behaviour = echo
    assert router.outcomes[0].decision_id == known.decision_id
