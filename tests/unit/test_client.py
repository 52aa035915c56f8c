"""The client's pure parts: features by kind, statuses and their classes, waiting times, frames, local decisions."""

from __future__ import annotations

import asyncio
from random import Random

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.client.answers import AssignmentReason, Durability, FallbackReason, answer_of
from services.client.backoff import Backoff
from services.client.features import Row, batch_of, by_kind, request_of
from services.client.outcomes import LocalDecisions
from services.client.status import CALLERS_OWN, RouterFailed, error_of, error_of_rpc
from services.client.stream import MAX_FRAME_BYTES, MAX_FRAME_CALLS, Pending, Queue, Settled
from services.runtime import errors
from services.runtime.errors import InvalidArgument, TurnoutError, Unavailable
from services.runtime.grpc_binding import CODES, status_details
from turnout.v1 import prediction_pb2 as pb

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
VALUES = st.one_of(
    st.booleans(), st.floats(allow_nan=False), st.integers(-(2**53), 2**53), st.text(st.characters(codec="utf-8"))
)
CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")]


@given(features=st.dictionaries(NAMES, VALUES))
def test_every_feature_travels_once_under_the_kind_of_its_value(features: dict[str, float | str | bool]) -> None:
    """What the router decodes is what the caller gave, and True is never the number 1."""
    sent = request_of("dispatch", Row("d-1", "u", "r", by_kind(features)))
    read = pb.PredictRequest.FromString(sent.SerializeToString())
    joined: dict[str, object] = {**read.numbers, **read.categories, **read.flags}
    assert joined == features
    assert len(read.numbers) + len(read.categories) + len(read.flags) == len(features)
    assert dict(read.flags) == {name: value for name, value in features.items() if isinstance(value, bool)}


def test_numpy_numbers_are_numbers() -> None:
    """A row out of a data frame needs no conversion."""
    kinds = by_kind({"a": np.float32(0.5), "b": np.int64(3), "c": np.float64(2.5), "d": np.str_("x")})
    assert (kinds.numbers, kinds.categories) == ({"a": 0.5, "b": 3.0, "c": 2.5}, {"d": "x"})


@pytest.mark.parametrize("value", [None, [1.0], {"a": 1}, b"text", 1j, object(), 10**400])
def test_a_value_of_another_type_is_refused_by_name(value: object) -> None:
    """Anything that is no number, text or boolean names its feature."""
    with pytest.raises(InvalidArgument) as caught:
        by_kind({"severity": value})
    assert "severity" in caught.value.field
    assert "'severity'" in caught.value.message


@pytest.mark.parametrize("row", [{"severity": "\ud800"}, {"\ud800": 1.0}, {7: 1.0}])
def test_what_is_no_text_is_the_callers_error(row: dict[str, float | str]) -> None:
    """Half a surrogate or a number as a name never becomes an exception of the message library."""
    asked = Row("d-1", "", "", by_kind(row))
    with pytest.raises(InvalidArgument):
        request_of("dispatch", asked)
    with pytest.raises(InvalidArgument):
        batch_of("dispatch", [asked])


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_arrives_as_the_class_that_the_router_raised(kind: type[TurnoutError]) -> None:
    """Class, field and sentence survive the way over a gRPC status with its details."""
    raised = kind("numbers[severity]", "feature 'severity' must be from 1 to 5")
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", status_details(raised)))
    arrived = error_of_rpc(grpc.aio.AioRpcError(CODES[kind.code], grpc.aio.Metadata(), trailers, raised.message))
    assert (type(arrived), arrived.field, arrived.message) == (kind, raised.field, raised.message)


def test_details_that_cannot_be_read_cost_the_field_only() -> None:
    """A broken detail leaves the code and the sentence."""
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff"))
    error = error_of_rpc(grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailers, "no family"))
    assert (type(error), error.field, error.message) == (errors.NotFound, "", "no family")


@pytest.mark.parametrize("code", range(1, 17))
def test_every_status_code_has_an_error(code: int) -> None:
    """Codes without a class are the router's failure; a cancellation nobody asked for is an absence."""
    error = error_of(code, "sentence", "field")
    known = {kind.code for kind in CLASSES}
    expected = Unavailable if code == 1 else RouterFailed
    assert error.code == code if code in known else type(error) is expected
    assert isinstance(error, CALLERS_OWN) == (code in {3, 5, 6, 7, 16})


@given(attempt=st.integers(0, 10_000), seed=st.integers())
def test_waiting_times_stay_within_their_bounds(attempt: int, seed: int) -> None:
    """A delay is at most first × 2^attempt and at most the limit, and the same for the same chance."""
    backoff = Backoff(0.02, 2.0)
    delay = backoff.delay(attempt, Random(seed))
    assert 0 <= delay <= min(2.0, 0.02 * 2.0 ** min(attempt, 20))
    assert delay == backoff.delay(attempt, Random(seed))


@pytest.mark.parametrize(("first", "limit"), [(0, 1), (-1, 1), (2, 1), (float("nan"), 1)])
def test_a_backoff_that_cannot_be_is_refused(first: float, limit: float) -> None:
    """First is over 0 and at most the limit."""
    with pytest.raises(ValueError, match="backoff"):
        Backoff(first, limit)


def test_numbers_that_a_newer_router_sends_do_not_break_an_answer() -> None:
    """Unknown reasons are UNKNOWN, never NONE; an unknown durability promises the least."""
    message = pb.PredictResponse(assignment=pb.Assignment(arm="a"))
    message.fallback = message.assignment.reason = message.durability = 99  # type: ignore[assignment]
    answer = answer_of(pb.PredictResponse.FromString(message.SerializeToString()))
    assert (answer.fallback, answer.assignment.reason) == (FallbackReason.UNKNOWN, AssignmentReason.UNKNOWN)
    assert answer.durability is Durability.PENDING


def test_the_enums_follow_the_proto() -> None:
    """Every number of the contract has a name here."""
    for ours, theirs in ((FallbackReason, pb.FallbackReason), (AssignmentReason, pb.AssignmentReason)):
        assert set(theirs.values()) == {member.value for member in ours} - {-1}
    assert set(pb.Durability.values()) == {member.value for member in Durability}


@given(sizes=st.lists(st.integers(0, 300_000), max_size=20), small=st.integers(0, 600))
async def test_frames_carry_every_call_once_in_order_within_both_limits(sizes: list[int], small: int) -> None:
    """Whatever the calls' sizes: all go out, in order, in frames of at most 256 calls and 1 MiB."""
    loop = asyncio.get_running_loop()
    queue = Queue()
    for number, size in enumerate([*sizes, *[0] * small]):
        future: asyncio.Future[Settled] = loop.create_future()
        queue.add(Pending(number, pb.PredictRequest(family="x" * size), future, give_up_at=10.0))
    under_way: dict[int, Pending] = {}
    seen: list[int] = []
    while frame := queue.take(under_way, now=9.5):
        calls = pb.PredictStreamRequest.FromString(frame).calls
        assert len(frame) <= MAX_FRAME_BYTES
        assert 1 <= len(calls) <= MAX_FRAME_CALLS
        assert {call.timeout_ms for call in calls} == {500}
        seen += [call.call_id for call in calls]
    assert seen == list(range(len(sizes) + small)) == list(under_way)
    assert not queue.calls
    queue.return_first(under_way)
    assert list(queue.calls) == seen
    assert not under_way


@given(ids=st.lists(st.integers(0, 30).map(str), max_size=100))
def test_the_newest_local_decisions_are_remembered_within_the_bound(ids: list[str]) -> None:
    """At most ten are held, the newest among them; one that was sent may be known to the router."""
    local = LocalDecisions(10)
    for place, decision_id in enumerate(ids):
        local.add(decision_id, sent=place % 2 == 0)
        assert decision_id in local
        assert local.is_unknown_to_router(decision_id) == (place % 2 == 1)
        assert sum(str(number) in local for number in range(31)) <= 10
