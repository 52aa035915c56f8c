"""The client against a router that goes away: no call is lost, and what was sent twice is one decision."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bentos.family import load
from services.client import Answer, Backoff, ClientSettings, FallbackReason, LinkSettings, TurnoutClient
from services.runtime.errors import InvalidArgument, NotFound, TurnoutError
from tests.integration.client_under_test import ROW, FakeRouter, Said, echo, routing, silent
from turnout.v1 import prediction_pb2 as pb

QUICK = Backoff(0.005, 0.05)
Transport = Literal["stream", "unary"]
TRANSPORTS = pytest.mark.parametrize("transport", ["stream", "unary"])


@asynccontextmanager
async def traffic(client: TurnoutClient) -> AsyncIterator[list[Answer]]:
    """Eight callers, each asking again as soon as it was answered, while the block runs; a failed call fails it."""
    answers: list[Answer] = []
    stop = asyncio.Event()

    async def ask(caller: int) -> None:
        while not stop.is_set():
            answers.append(await client.predict("dispatch", {"severity": caller}, timeout=5))
            assert answers[-1].value == caller

    async with asyncio.TaskGroup() as callers:
        for caller in range(8):
            callers.create_task(ask(caller))
        yield answers
        stop.set()


@TRANSPORTS
async def test_a_router_that_is_killed_and_restarted_under_traffic_costs_no_call(transport: Transport) -> None:
    """Without any fallback to hide behind, every call gets the router's answer, across two restarts."""
    router = FakeRouter()
    options = ClientSettings(fallback=False, transport=transport, link=LinkSettings(backoff=QUICK))
    async with AsyncExitStack() as stack:
        server = AsyncExitStack()
        address = (await server.enter_async_context(routing(router))).address
        client = await stack.enter_async_context(TurnoutClient(address, settings=options))
        answers = await stack.enter_async_context(traffic(client))
        for _ in range(2):
            seen = len(router.requests)
            await router.until(lambda seen=seen: len(router.requests) > seen + 50)  # type: ignore[misc]
            await server.aclose()
            server = AsyncExitStack()
            await server.enter_async_context(routing(router, address))
        seen = len(router.requests)
        await router.until(lambda: len(router.requests) > seen + 50)
        await stack.aclose()
        await server.aclose()
    assert {answer.served_variant for answer in answers} == {"fake"}


async def test_calls_on_a_stream_that_the_router_ends_are_sent_again_as_the_same_decisions() -> None:
    """Twenty unanswered calls go out once more, under their first ids, in their first order."""
    router = FakeRouter(behaviour=silent)
    options = ClientSettings(fallback=False, link=LinkSettings(backoff=QUICK))
    async with routing(router) as server, TurnoutClient(server.address, settings=options) as client:
        calls = [asyncio.create_task(client.predict("dispatch", {"severity": n}, timeout=5)) for n in range(20)]
        await router.until(lambda: len(router.calls) == 20)
        router.behaviour = echo
        router.end_streams()
        answers = await asyncio.gather(*calls)
        assert [answer.value for answer in answers] == list(range(20))
        assert client.statistics.resent == 20
    ids = [request.decision_id for request in router.requests]
    assert ids[:20] == ids[20:] == [answer.decision_id for answer in answers]


async def test_a_call_is_sent_again_only_once() -> None:
    """A call that comes back unanswered from two streams may be what breaks them: the rules answer it."""
    router = FakeRouter(behaviour=silent)
    options = ClientSettings(link=LinkSettings(backoff=QUICK))
    async with routing(router) as server, TurnoutClient(server.address, settings=options) as client:
        call = asyncio.create_task(client.predict("dispatch", ROW, timeout=5))
        for sends in (1, 2):
            await router.until(lambda sends=sends: len(router.calls) == sends)  # type: ignore[misc]
            router.end_streams()
        assert (await call).fallback is FallbackReason.ROUTER_AWAY
    assert len(router.calls) == 2


async def test_a_router_that_is_away_is_replaced_by_the_rules_until_it_is_back() -> None:
    """The local answer is the family's own; it comes at once when the router is known to be away."""
    router = FakeRouter()
    options = ClientSettings(families=("dispatch",), link=LinkSettings(backoff=QUICK, away_after=0.02))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(routing(router))
        client = TurnoutClient(server.address, settings=options)
        async with client:
            assert (await client.predict("dispatch", ROW)).served_variant == "fake"
            await stack.aclose()
            answer = await client.predict("dispatch", ROW, decision_id="d-1", timeout=5)
            family = load("dispatch")
            said = family.rules(family.row(*family.schema.encode(*family.schema.split(ROW))[1]))
            assert (answer.value, answer.confidence, answer.reasons) == (said.value, said.confidence, said.reasons)
            assert (answer.decision_id, answer.served_variant, answer.level) == (
                "d-1",
                "rules",
                family.level(said.value),
            )
            assert (answer.fallback, answer.model_version) == (FallbackReason.ROUTER_AWAY, family.rules_version)
            # Known to be away: the answer comes without waiting for anything at all.
            with pytest.raises(StopIteration) as at_once:
                client.predict("dispatch", ROW, timeout=5).send(None)
            assert at_once.value.value.value == said.value
            batch = await client.predict_batch("dispatch", [ROW, ROW], timeout=5)
            assert [one.value for one in batch] == [said.value] * 2
            async with routing(router, server.address):
                assert await client.ready(5)
                assert (await client.predict("dispatch", ROW)).served_variant == "fake"
            assert client.statistics.answered_locally == 4


async def test_the_rules_refuse_what_the_router_would_refuse() -> None:
    """A wrong row is the caller's error whether or not the router is there."""
    options = ClientSettings(link=LinkSettings(away_after=0.001))
    async with TurnoutClient("127.0.0.1:1", settings=options) as client:
        with pytest.raises(InvalidArgument) as caught:
            await client.predict("dispatch", {"severity": 99})
        assert caught.value.field == "numbers[severity]"
        with pytest.raises(NotFound):
            await client.predict("no_such_family", ROW)
        with pytest.raises(InvalidArgument) as caught:
            await client.predict("dispatch", ROW, decision_id="not an id")
        assert caught.value.field == "decision_id"


async def test_connections_are_renewed_under_traffic_before_the_router_ends_them() -> None:
    """Moving to a fresh connection loses no call and repeats none; the old one is closed."""
    router = FakeRouter()
    options = ClientSettings(fallback=False, link=LinkSettings(backoff=QUICK, renew_after=0.05))
    async with (
        routing(router) as server,
        TurnoutClient(server.address, settings=options) as client,
        traffic(client) as answers,
    ):
        await router.until(lambda: router.streams_opened >= 5)
    assert router.streams_opened >= 5
    ids = [request.decision_id for request in router.requests]
    assert len(set(ids)) == len(ids) == len(answers)


async def test_a_call_under_way_survives_the_renewal_of_its_connection() -> None:
    """The old stream stays open for the answers that it owes."""
    router = FakeRouter(behaviour=silent)
    options = ClientSettings(fallback=False, link=LinkSettings(renew_after=0.05))
    async with routing(router) as server, TurnoutClient(server.address, settings=options) as client:
        call = asyncio.create_task(client.predict("dispatch", {"severity": 3}, timeout=5))
        await router.until(lambda: len(router.calls) == 1 and router.streams_opened >= 3)
        reply = pb.PredictResponse(decision_id=router.requests[0].decision_id, value=3.0)
        result = pb.PredictResult(call_id=router.calls[0].call_id, prediction=reply)
        router.streams[0].put_nowait(pb.PredictStreamResponse(results=[result]))
        assert (await call).value == 3.0
        assert (len(router.calls), client.statistics.resent) == (1, 0)


STEPS = st.lists(st.sampled_from(["answer", "error", "silence", "cancel", "end"]), min_size=1, max_size=12)


@given(steps=STEPS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_happens_nothing_is_left_behind(steps: list[str]) -> None:
    """After answers, errors, silence, cancellations and broken streams no call is held and no task is left."""

    def behaviour(request: pb.PredictRequest) -> Said:
        match request.unit_id:
            case "error":
                return NotFound("family", "there is no such family")
            case "answer" | "end":
                return echo(request)
            case _:
                return None

    async def step(client: TurnoutClient, kind: str) -> Answer | None:
        if kind == "end":
            router.end_streams()
        seconds = 0.02 if kind == "silence" else 2.0
        call = asyncio.create_task(client.predict("dispatch", ROW, unit_id=kind, timeout=seconds))
        if kind == "cancel":
            await asyncio.sleep(0)
            call.cancel()
        return (await asyncio.gather(call, return_exceptions=True))[0]  # type: ignore[return-value]

    router = FakeRouter(behaviour=behaviour)
    async with routing(router) as server:
        before = asyncio.all_tasks()
        options = ClientSettings(link=LinkSettings(backoff=QUICK))
        async with TurnoutClient(server.address, settings=options) as client:
            results = await asyncio.gather(*(step(client, kind) for kind in steps))
            assert client.statistics.under_way == 0
            link = client._parts().link
            assert not link._queue.calls
            assert not [call for connection in link._open for call in connection.under_way]
        assert {task for task in asyncio.all_tasks() - before if _is_the_clients(task)} == set()
    kinds = {"answer": Answer, "end": Answer, "silence": Answer, "error": TurnoutError, "cancel": BaseException}
    for kind, result in zip(steps, results, strict=True):
        assert isinstance(result, kinds[kind])


def _is_the_clients(task: asyncio.Task[object]) -> bool:
    """The server's own handlers end a moment later; everything of the client must be gone already."""
    return "services.client" in str(task.get_coro()) or "services/client" in repr(task)
