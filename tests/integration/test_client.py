"""The client against a router that answers: every call gets its own answer or its own error."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pytest

from services.client import (
    Answer,
    AssignmentReason,
    ClientSettings,
    FallbackReason,
    Features,
    LinkSettings,
    RouterFailed,
    TurnoutClient,
)
from services.runtime.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TurnoutError,
    Unauthenticated,
    Unavailable,
)
from services.runtime.identity import by_token
from tests.integration.client_under_test import ROW, FakeRouter, Said, echo, routing, silent
from turnout.v1 import prediction_pb2 as pb

Transport = Literal["stream", "unary"]
TRANSPORTS = pytest.mark.parametrize("transport", ["stream", "unary"])


@TRANSPORTS
async def test_a_call_carries_everything_and_brings_everything_back(transport: Transport) -> None:
    """Features go by the kind of their values; the answer has all that the router said."""
    router = FakeRouter()
    async with routing(router) as server, TurnoutClient(server.address, transport=transport) as client:
        answer = await client.predict(
            "dispatch", {**ROW, "night": True}, unit_id="incident-7", region="north", decision_id="d-1"
        )
    (request,) = router.requests
    assert (request.family, request.decision_id) == ("dispatch", "d-1")
    assert (request.unit_id, request.region) == ("incident-7", "north")
    assert dict(request.numbers) == {"severity": 4.0, "distance_km": 2.5}
    assert (dict(request.categories), dict(request.flags)) == ({"call_type": "cardiac"}, {"night": True})
    assert (answer.decision_id, answer.value, answer.served_variant) == ("d-1", 4.0, "fake")
    assert (answer.assignment.arm, answer.assignment.propensity, answer.assignment.revision) == ("candidate", 0.5, 7)
    assert (answer.assignment.reason, answer.fallback) == (AssignmentReason.HASH, FallbackReason.NONE)


async def test_answers_in_any_order_reach_their_own_callers() -> None:
    """Fifty calls, answered from the last to the first, each get the answer to their own row."""
    router = FakeRouter(behaviour=silent)
    async with routing(router) as server, TurnoutClient(server.address, fallback=False) as client:
        calls = [asyncio.create_task(client.predict("dispatch", {"severity": n}, timeout=5)) for n in range(50)]
        await router.until(lambda: len(router.calls) == 50)
        for call in reversed(router.calls):
            router.answer(call)
        answers = await asyncio.gather(*calls)
    assert [answer.value for answer in answers] == list(range(50))
    assert len({answer.decision_id for answer in answers}) == 50


@TRANSPORTS
@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("numbers[severity]", "feature 'severity' must be from 1 to 5, not 9"),
        NotFound("family", "there is no family 'x'"),
        AlreadyExists("decision_id", "the id was used with another body"),
    ],
)
async def test_an_error_of_the_caller_is_raised_and_touches_no_other_call(
    error: TurnoutError, transport: Transport
) -> None:
    """Class, field and sentence arrive as they were raised; the fallback does not hide them."""

    def behaviour(request: pb.PredictRequest) -> Said:
        return error if request.numbers["severity"] == 9 else echo(request)

    router = FakeRouter(behaviour=behaviour)
    async with routing(router) as server, TurnoutClient(server.address, transport=transport) as client:
        wrong, right = await asyncio.gather(
            client.predict("dispatch", {"severity": 9}),
            client.predict("dispatch", {"severity": 3}),
            return_exceptions=True,
        )
    assert type(wrong) is type(error)
    assert isinstance(wrong, TurnoutError)
    assert (wrong.field, wrong.message) == (error.field, error.message)
    assert isinstance(right, Answer)
    assert right.value == 3.0


def _always(error: TurnoutError, _: pb.PredictRequest) -> Said:
    return error


async def test_a_failure_of_the_router_is_answered_by_the_rules_unless_that_is_turned_off() -> None:
    """RESOURCE_EXHAUSTED and INTERNAL are no mistake of the caller's."""
    for error, raised in (
        (ResourceExhausted("", "busy"), ResourceExhausted),
        (RouterFailed("", "broken"), RouterFailed),
    ):
        router = FakeRouter(behaviour=partial(_always, error))
        async with routing(router) as server:
            async with TurnoutClient(server.address) as client:
                assert (await client.predict("dispatch", ROW)).fallback is FallbackReason.ROUTER_AWAY
            async with TurnoutClient(server.address, fallback=False) as client:
                with pytest.raises(raised):
                    await client.predict("dispatch", ROW)


@TRANSPORTS
async def test_without_an_answer_the_call_ends_at_its_deadline(transport: Transport) -> None:
    """With the fallback the rules answer before the deadline; without it DeadlineExceeded is raised."""
    router = FakeRouter(behaviour=silent)
    async with routing(router) as server:
        async with TurnoutClient(server.address, transport=transport, families=["dispatch"]) as client:
            answer = await client.predict("dispatch", ROW, timeout=0.2)
            assert (answer.served_variant, answer.fallback) == ("rules", FallbackReason.ROUTER_AWAY)
            assert client.statistics.under_way == 0
        async with TurnoutClient(server.address, transport=transport, fallback=False) as client:
            with pytest.raises(DeadlineExceeded):
                await client.predict("dispatch", ROW, timeout=0.05)
            assert client.statistics.under_way == 0


async def test_the_time_left_travels_with_the_call_less_the_margin() -> None:
    """The router hears of a deadline that leaves the client its margin for the rules."""
    router = FakeRouter()
    async with routing(router) as server, TurnoutClient(server.address) as client:
        await client.predict("dispatch", ROW, timeout=5)
    assert 0 < router.calls[0].timeout_ms <= 4975


async def test_calls_that_are_ready_together_share_frames_of_at_most_256() -> None:
    """Six hundred calls made at one moment need three frames; a call alone does not wait for company."""
    router = FakeRouter()
    async with routing(router) as server, TurnoutClient(server.address, fallback=False) as client:
        await client.predict("dispatch", ROW)
        assert router.frames == [1]
        await asyncio.gather(*(client.predict("dispatch", ROW, timeout=5) for _ in range(600)))
    assert router.frames == [1, 256, 256, 88]


async def test_a_frame_stays_under_the_routers_byte_limit() -> None:
    """Large calls travel apart; one that is too large alone is refused by itself and ends nothing."""
    router = FakeRouter()
    large = {**ROW, "call_type": "x" * 600_000}
    async with routing(router) as server, TurnoutClient(server.address, fallback=False) as client:
        results = await asyncio.gather(
            client.predict("dispatch", large, timeout=5),
            client.predict("dispatch", {**ROW, "call_type": "x" * (1 << 20)}, timeout=5),
            client.predict("dispatch", large, timeout=5),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [Answer, InvalidArgument, Answer]
        assert (router.frames, router.streams_opened) == ([1, 1], 1)


async def test_a_cancelled_call_frees_its_place_and_its_late_answer_harms_nobody() -> None:
    """A bound of one call: after a cancellation the next call has room, and gets its own answer."""
    router = FakeRouter(behaviour=silent)
    settings = ClientSettings(fallback=False, link=LinkSettings(max_calls=1))
    async with routing(router) as server, TurnoutClient(server.address, settings=settings) as client:
        first = asyncio.create_task(client.predict("dispatch", {"severity": 1}, timeout=5))
        await router.until(lambda: len(router.calls) == 1)
        with pytest.raises(ResourceExhausted):
            await client.predict("dispatch", ROW)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert client.statistics.under_way == 0
        router.answer(router.calls[0])
        router.behaviour = echo
        assert (await client.predict("dispatch", {"severity": 2})).value == 2.0


@TRANSPORTS
async def test_a_token_is_sent_and_a_wrong_one_is_the_callers_error(transport: Transport) -> None:
    """The right token is let in; a wrong one raises Unauthenticated for every call, never the rules' answer."""
    identify = by_token({"city": hashlib.sha256(b"right").hexdigest()})
    router = FakeRouter()
    async with routing(router, identify=identify) as server:
        async with TurnoutClient(server.address, "right", transport=transport) as client:
            assert (await client.predict("dispatch", ROW)).served_variant == "fake"
        async with TurnoutClient(server.address, "wrong", transport=transport) as client:
            for _ in range(3):
                with pytest.raises(Unauthenticated):
                    await client.predict("dispatch", ROW)
            with pytest.raises(Unauthenticated):
                await client.predict_batch("dispatch", [ROW])


@dataclass(frozen=True)
class OwnRow:
    """A row with ids of its own."""

    decision_id: str
    unit_id: str
    region: str
    features: Features


async def test_a_batch_keeps_its_order_and_rows_may_bring_their_own_ids() -> None:
    """Mappings take the batch's unit and get ids; rows with ids keep them."""
    router = FakeRouter()
    async with routing(router) as server, TurnoutClient(server.address) as client:
        answers = await client.predict_batch("dispatch", [{"severity": n} for n in range(1, 6)], unit_id="incident-7")
        assert [answer.value for answer in answers] == [1, 2, 3, 4, 5]
        assert {request.unit_id for request in router.requests} == {"incident-7"}
        assert len({answer.decision_id for answer in answers}) == 5
        (answer,) = await client.predict_batch("dispatch", [OwnRow("d-9", "incident-8", "south", {"severity": 2})])
        assert (answer.decision_id, router.requests[-1].unit_id, router.requests[-1].region) == (
            "d-9",
            "incident-8",
            "south",
        )
        assert client.statistics.answered_by_router == 6


async def test_a_batch_is_answered_by_the_rules_in_need_and_refused_when_it_is_wrong() -> None:
    """A silent router costs no row its answer; a bad row and a wrong size are the caller's errors."""
    router = FakeRouter(behaviour=silent)
    async with routing(router) as server, TurnoutClient(server.address) as client:
        answers = await client.predict_batch("dispatch", [ROW, {"severity": 1}], timeout=0.1)
        assert {answer.fallback for answer in answers} == {FallbackReason.ROUTER_AWAY}
        for rows in ([], [ROW] * 1001, [{**ROW, "call_type": "x" * (1 << 20)}]):
            with pytest.raises(InvalidArgument) as caught:
                await client.predict_batch("dispatch", rows)
            assert caught.value.field == "rows"
        router.behaviour = lambda _: InvalidArgument("rows[0].numbers[severity]", "row 0: too high")
        with pytest.raises(InvalidArgument) as caught:
            await client.predict_batch("dispatch", [ROW])
        assert caught.value.field == "rows[0].numbers[severity]"


async def test_an_explanation_comes_from_the_router_alone() -> None:
    """Contributions arrive whole; errors are raised, since there is nothing to fall back to."""
    async with routing(FakeRouter()) as server, TurnoutClient(server.address) as client:
        explanation = await client.explain("dispatch", ROW, variant="xgboost")
        assert (explanation.value, explanation.base_value, explanation.variant) == (0.75, 0.5, "xgboost")
        assert [(c.feature, c.value, c.contribution) for c in explanation.contributions] == [("severity", "4", 0.25)]
        with pytest.raises(NotFound):
            await client.explain("unknown", ROW)


async def test_ready_says_whether_the_router_serves() -> None:
    """True once the router's health says SERVING, False when it does not in time, for whatever reason."""
    async with routing(FakeRouter()) as server, TurnoutClient(server.address) as client:
        assert await client.ready(5)
        await server.set_serving("", serving=False)
        assert not await client.ready(0.05)
    async with TurnoutClient(server.address) as client:
        assert not await client.ready(0.05)


@pytest.mark.parametrize("seconds", [0, -1, 5.1, float("nan"), float("inf")])
async def test_a_deadline_out_of_bounds_is_refused(seconds: float) -> None:
    """A deadline is over 0 and at most 5 seconds."""
    async with TurnoutClient("127.0.0.1:9") as client:
        with pytest.raises(InvalidArgument) as caught:
            await client.predict("dispatch", ROW, timeout=seconds)
    assert caught.value.field == "timeout"


async def test_a_client_works_inside_its_block_only() -> None:
    """Before and after the block a call says so; calls under way when it ends are answered by the rules."""
    router = FakeRouter(behaviour=silent)
    async with routing(router) as server:
        client = TurnoutClient(server.address)
        with pytest.raises(FailedPrecondition):
            await client.predict("dispatch", ROW)
        async with client:
            call = asyncio.create_task(client.predict("dispatch", ROW, timeout=5))
            batch = asyncio.create_task(client.predict_batch("dispatch", [ROW], timeout=5))
            await router.until(lambda: len(router.requests) == 2)
        assert (await call).fallback is FallbackReason.ROUTER_AWAY
        assert (await batch)[0].fallback is FallbackReason.ROUTER_AWAY
        with pytest.raises(FailedPrecondition):
            await client.predict("dispatch", ROW)


@TRANSPORTS
async def test_without_fallback_a_router_that_is_not_there_is_unavailable(transport: Transport) -> None:
    """Nobody listens: the call waits for its deadline and then says what was wrong."""
    async with TurnoutClient("127.0.0.1:1", transport=transport, fallback=False) as client:
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await client.predict("dispatch", ROW, timeout=0.1)
