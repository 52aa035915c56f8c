"""Whatever a caller sends, it gets a canonical code and one sentence; the router goes on and records good calls."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from inference import open_inference_pb2 as oip
from router.batching import Batches
from services.hub.bootstrap import running as hub_running
from services.runtime.errors import DeadlineExceeded
from tests.integration.batches import answers, batch
from tests.integration.message_strategies import messages
from tests.integration.platform_under_test import PREDICTIONS, ROW, Caller, Platform, experiment, platform
from turnout.v1 import prediction_pb2 as pb

Code = grpc.StatusCode
OIP = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
UNARY = [m for service in (PREDICTIONS, OIP) for m in service.methods if not m.client_streaming]
ALLOWED = {
    Code.OK,
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.ALREADY_EXISTS,
    Code.DEADLINE_EXCEEDED,
    Code.RESOURCE_EXHAUSTED,
    Code.FAILED_PRECONDITION,
    Code.UNAVAILABLE,
    Code.UNIMPLEMENTED,
    Code.UNAUTHENTICATED,
}
TELLTALE = re.compile(r"Traceback|Error\b|Exception|\.py\b|site-packages|0x[0-9a-f]{6}")


@pytest.fixture
async def p() -> AsyncIterator[Platform]:
    async with platform() as running:
        yield running


def row(**fields: Any) -> pb.PredictRequest:
    return pb.PredictRequest(**{"family": "dispatch", "numbers": ROW, **fields})


async def refusal(call: Awaitable[Any]) -> tuple[Code, str, str]:
    """Gives code, field of the BadRequest detail and sentence of a refused call, and judges the sentence."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    sentence, field = error.details() or "", ""
    assert sentence
    assert "\n" not in sentence
    assert not TELLTALE.search(sentence), sentence
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            assert (status.code, status.message) == (error.code().value[0], sentence)
            for detail in status.details:
                bad = error_details_pb2.BadRequest()
                if detail.Unpack(bad):
                    field = bad.field_violations[0].field
                    assert bad.field_violations[0].description == sentence
    return error.code(), field, sentence


async def still_answers(p: Platform, *expected: str) -> None:
    """A good call is answered, and the journal holds it and the expected ones, nothing else."""
    answer = await p.call.predict(decision_id="good")
    assert answer.served_variant == "fake"
    assert sorted(d.decision_id for d in p.decisions()) == sorted(("good", *expected))


LONG = "x" * 1025
BAD_ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a required feature left out": ({"numbers": {"hour": 1}}, "numbers[severity]", "required"),
    "no feature": ({"numbers": {}}, "numbers[severity]", "required"),
    "a feature too many": ({"numbers": {**ROW, "colour": 1}}, "numbers[colour]", "not in the schema"),
    "NaN": ({"numbers": {**ROW, "hour": math.nan}}, "numbers[hour]", "finite"),
    "infinity": ({"numbers": {**ROW, "hour": math.inf}}, "numbers[hour]", "finite"),
    "minus infinity": ({"numbers": {**ROW, "hour": -math.inf}}, "numbers[hour]", "finite"),
    "a number too high": ({"numbers": {**ROW, "severity": 5.001}}, "numbers[severity]", "from 1 to 5"),
    "a number too low": ({"numbers": {**ROW, "distance_km": -1e-9}}, "numbers[distance_km]", "from 0 to 200"),
    "the highest number there is": ({"numbers": {**ROW, "hour": 1.7e308}}, "numbers[hour]", "from 0 to 24"),
    "a number as category": ({"categories": {"severity": "4"}}, "categories[severity]", "belongs in numbers"),
    "a category as number": ({"numbers": {**ROW, "call_type": 1}}, "numbers[call_type]", "belongs in categories"),
    "a number as flag": ({"flags": {"hour": True}}, "flags[hour]", "belongs in numbers"),
    "an unknown flag": ({"flags": {"b": True}}, "flags[b]", "not in the schema"),
    "an unknown value": ({"categories": {"call_type": "Fire"}}, "categories[call_type]", "must be one of medical"),
    "an empty value": ({"categories": {"call_type": ""}}, "categories[call_type]", "must be one of"),
    "a value over 1 KiB": ({"categories": {"call_type": LONG}}, "categories[call_type]", "must be one of"),
    "an unknown category": ({"categories": {LONG: "x"}}, f"categories[{'x' * 64}]", "not in the schema"),
    "10 000 features": ({"numbers": {f"n{i}": 1 for i in range(10_000)}}, "numbers[n", "not in the schema"),
    "a unit over 1 KiB": ({"unit_id": LONG}, "unit_id", "at most 1024 bytes"),
    "a unit over 1 KiB in UTF-8": ({"unit_id": "é" * 513}, "unit_id", "at most 1024 bytes"),
    "a region over 1 KiB": ({"region": LONG}, "region", "at most 1024 bytes"),
    "a space in the id": ({"decision_id": "a b"}, "decision_id", "1 to 128 characters of [A-Za-z0-9._:-]"),
    "a newline after the id": ({"decision_id": "a\n"}, "decision_id", "1 to 128"),
    "a NUL in the id": ({"decision_id": "a\0"}, "decision_id", "1 to 128"),
    "other digits in the id": ({"decision_id": "١"}, "decision_id", "1 to 128"),
    "a slash in the id": ({"decision_id": "other/tenant"}, "decision_id", "1 to 128"),
    "an id of 129": ({"decision_id": "x" * 129}, "decision_id", "1 to 128"),
}


async def test_a_wrong_row_is_refused_by_field_and_limit_on_every_way_in(p: Platform) -> None:
    """Alone, in a batch (which names the row), on a stream, and when an explanation is asked for."""
    stream = p.call.method("PredictStream")()
    for case, (fields, field, limit) in BAD_ROWS.items():
        code, told, sentence = await refusal(p.call("Predict", row(**fields)))
        assert (code, told[: len(field)]) == (Code.INVALID_ARGUMENT, field), case
        assert limit in sentence, case
        code, _, sentence = await refusal(p.call("Explain", pb.ExplainRequest(request=row(**fields))))
        assert code is Code.INVALID_ARGUMENT, case
        rows = [row(decision_id="innocent"), row(), row(**fields)]
        if case != "NaN":
            # In a column NaN is the mark of a number that is not known.
            code, told, sentence = await refusal(p.call("PredictBatch", batch(rows)))
            assert (code, told[: len(field) + 8]) == (Code.INVALID_ARGUMENT, f"rows[2].{field}"), case
            assert limit in sentence, case
        await stream.write(pb.PredictStreamRequest(calls=[pb.PredictCall(call_id=7, request=row(**fields))]))
        (result,) = (await stream.read()).results
        assert (result.call_id, result.error.code) == (7, Code.INVALID_ARGUMENT.value[0]), case
        assert result.error.field.startswith(field), case
        assert limit in result.error.message, case
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    # The id of a refused batch's good row is free.
    assert (await p.call.predict(decision_id="innocent", unit_id="u")).decision_id == "innocent"
    await still_answers(p, "innocent")


async def test_what_is_just_inside_the_limits_is_answered(p: Platform) -> None:
    """The limits are not stricter than they say."""
    ids = ["x" * 128, "A-z.0:_"]
    await p.call.predict(decision_id=ids[0], unit_id="é" * 512, region="x" * 1024)
    await p.call.predict(decision_id=ids[1], numbers={"severity": 5}, categories={"call_type": "other"})
    await still_answers(p, *ids)


async def test_the_family_and_the_number_of_rows_are_checked(p: Platform) -> None:
    """An unknown family is NOT_FOUND; none and 1 001 rows are refused; 1 000 are answered."""
    for family in ("", "nope", "Dispatch", "x" * 5000, "dispatch\0"):
        for call in (
            p.call("Predict", row(family=family)),
            p.call("PredictBatch", batch([row()], family)),
            p.call("Explain", pb.ExplainRequest(request=row(family=family))),
        ):
            code, field, sentence = await refusal(call)
            assert (code, field) == (Code.NOT_FOUND, "family")
            assert len(sentence) < 200
    for count in (0, 1001):
        code, field, sentence = await refusal(p.call("PredictBatch", batch([row()] * count)))
        assert (code, field, sentence) == (Code.INVALID_ARGUMENT, "rows", f"rows must be 1 to 1000, not {count}")
    reply = await p.call("PredictBatch", batch([row()] * 1000))
    await still_answers(p, *reply.decision_ids)


async def test_explain_says_what_is_missing(p: Platform) -> None:
    """No request, an unknown variant, a variant whose server is away."""
    assert (await refusal(p.call("Explain", pb.ExplainRequest())))[0] is Code.NOT_FOUND
    wrong = pb.ExplainRequest(request=row(), variant="v" * 3000)
    code, field, sentence = await refusal(p.call("Explain", wrong))
    assert (code, field) == (Code.NOT_FOUND, "variant")
    assert len(sentence) < 200
    async with platform(with_model=False) as lonely:
        asked = pb.ExplainRequest(request=row(), variant="fake")
        assert (await refusal(lonely.call("Explain", asked)))[:2] == (Code.UNAVAILABLE, "variant")
    await still_answers(p)


async def test_a_deadline_that_is_over_is_told_so(p: Platform) -> None:
    """DEADLINE_EXCEEDED, whether the caller's library or the router notices."""
    assert (await refusal(p.call("Predict", row(), timeout=-1.0)))[0] is Code.DEADLINE_EXCEEDED
    route = p.router.decider.table.route("dispatch")
    fields: dict[str, Any] = {"tenant": "t", "decision_id": "", "unit_id": "", "region": "", "numbers": ROW}
    with pytest.raises(DeadlineExceeded, match="after its deadline"):
        p.router.decider.prepare(route, **fields, categories={}, flags={}, time_left=0.0)
    answer = await p.call.predict(decision_id="good")
    assert answer.served_variant == "fake"


async def test_a_repeated_decision_is_the_very_same_answer(p: Platform) -> None:
    """Later, at once, in a batch and on a stream; made once, recorded once; with another body it is refused."""
    together = await asyncio.gather(*(p.call.predict(decision_id="twice", unit_id="u") for _ in range(20)))
    p.model.behaviour = lambda _: 0.9
    later = await p.call.predict(decision_id="twice", unit_id="u")
    reply = await p.call("PredictBatch", batch([row(decision_id="twice", unit_id="u")] * 2))
    assert all(one == together[0] for one in (*together, later, *answers(reply)))
    others: list[dict[str, Any]] = [
        {"numbers": {**ROW, "hour": 3}},
        {"unit_id": "v"},
        {"region": "r"},
        {"categories": {"call_type": "fire"}},
    ]
    stream = p.call.method("PredictStream")()
    for changed in others:
        fields = {"decision_id": "twice", "unit_id": "u", **changed}
        assert (await refusal(p.call("Predict", row(**fields))))[:2] == (Code.ALREADY_EXISTS, "decision_id")
        request = batch([row(decision_id="free"), row(**fields)])
        assert (await refusal(p.call("PredictBatch", request)))[0] is Code.ALREADY_EXISTS
        calls = [pb.PredictCall(call_id=1, request=row(**fields))]
        await stream.write(pb.PredictStreamRequest(calls=calls))
        assert (await stream.read()).results[0].error.code == Code.ALREADY_EXISTS.value[0]
    # Repeats are told apart by their place, whatever numbers their calls have.
    calls = [pb.PredictCall(call_id=7, request=row(decision_id="twice", unit_id="u")) for _ in range(5)]
    await stream.write(pb.PredictStreamRequest(calls=calls))
    results: list[pb.PredictResult] = []
    while len(results) < len(calls):
        results += (await stream.read()).results
    assert [(one.call_id, one.prediction) for one in results] == [(7, together[0])] * 5
    stream.cancel()
    p.model.behaviour = lambda values: values[0] / 10
    inside = batch([row(decision_id="free"), row(decision_id="free", unit_id="other")])
    assert (await refusal(p.call("PredictBatch", inside)))[0] is Code.ALREADY_EXISTS
    assert (await p.call.predict(decision_id="free", unit_id="third")).value == pytest.approx(0.4)
    await still_answers(p, "twice", "free")


async def test_a_repeat_waits_for_the_first_call_that_is_under_way(p: Platform) -> None:
    """Also when the first caller gives up: the decision that was recorded is the answer."""
    p.model.behaviour = lambda _: None
    first = asyncio.create_task(p.call.predict(decision_id="one"))
    await p.model.asked.wait()
    second = asyncio.create_task(p.call.predict(decision_id="one"))
    await asyncio.sleep(0)
    first.cancel()
    answer = await second
    (decision,) = p.decisions()
    assert decision.prediction == answer


async def test_a_batch_cancelled_in_the_very_turn_in_which_it_was_taken_is_recorded() -> None:
    """Its work never began; its decisions stand in the journal all the same, and their ids answer."""
    async with platform(experiments={"dispatch": experiment(rules=50, model=50)}) as p:
        decider = p.router.decider
        batches, ids = Batches(decider), [f"d{i}" for i in range(8)]
        request, route = batch([row(decision_id=i) for i in ids]), decider.table.route("dispatch")
        taken = batches.prepare(request, route=route, tenant="default", attributes={}, time_left=1.0)
        batches.admit(taken)
        work = asyncio.create_task(batches.answer(taken))
        await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait([work])
        assert sorted(d.decision_id for d in p.decisions()) == ids
        for decision in p.decisions():
            assert await p.call.predict(decision_id=decision.decision_id) == decision.prediction


async def test_stream_frames_may_be_wrong(p: Platform) -> None:
    """A call number twice gets two results; a frame without calls or with 1 001 ends the stream with a sentence."""
    for count in (0, 1001):
        stream = p.call.method("PredictStream")()
        twice = [pb.PredictCall(call_id=5, request=row(decision_id=f"s{count}-{i}")) for i in range(2)]
        await stream.write(pb.PredictStreamRequest(calls=twice))
        results: list[int] = []
        while len(results) < 2:
            results += [result.call_id for result in (await stream.read()).results]
        assert results == [5, 5]
        await stream.write(pb.PredictStreamRequest(calls=[pb.PredictCall()] * count))
        assert (await stream.code(), await stream.details()) == (
            Code.INVALID_ARGUMENT,
            f"calls must be 1 to 1000, not {count}",
        )
    await still_answers(p, "s0-0", "s0-1", "s1001-0", "s1001-1")


async def ended_by(p: Platform, raw: bytes) -> tuple[Code, str]:
    stream = p.call.method("PredictStream")()
    await stream.write(raw)
    await stream.done_writing()
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await stream.read() is not grpc.aio.EOF:
            pass
    return await stream.code(), await stream.details()


INVALID_UTF8 = b"\x0a\x02\xff\xfe"
"""Field 1, of two bytes that are no UTF-8: wrong wherever field 1 is a text, and no message either."""


async def test_bytes_that_are_no_message_are_told_so(p: Platform) -> None:
    """INVALID_ARGUMENT with the name of the message, on every method."""
    for method in UNARY:
        call = Caller(p.router.server.address, method.containing_service)
        for raw in (b"\xff\xff\xff", b"\x0a\x7fshort", b"\x07"):
            code, _, sentence = await refusal(call(method.name, raw))
            assert code is Code.INVALID_ARGUMENT, method.full_name
            assert method.input_type.full_name in sentence
        await call.close()
    for name in ("Predict", "PredictBatch", "RecordOutcome"):
        assert (await refusal(p.call(name, INVALID_UTF8)))[0] is Code.INVALID_ARGUMENT
    for raw in (b"\xff\xff\xff", b"\x0a\x06\x1a\x04" + INVALID_UTF8):
        code, sentence = await ended_by(p, raw)
        assert code is Code.INVALID_ARGUMENT
        assert "turnout.v1.PredictStreamRequest" in sentence
    await still_answers(p)


async def test_too_much_is_refused(p: Platform) -> None:
    """A message over 1 MiB, on a stream too, and metadata over 16 KiB: RESOURCE_EXHAUSTED."""
    large = row(unit_id="x" * (1 << 20))
    assert (await refusal(p.call("Predict", large)))[0] is Code.RESOURCE_EXHAUSTED
    assert (await ended_by(p, large.SerializeToString()))[0] is Code.RESOURCE_EXHAUSTED
    crowded = p.call("Predict", row(), metadata=[(f"k{i}", "v" * 1000) for i in range(64)])
    assert (await refusal(crowded))[0] is Code.RESOURCE_EXHAUSTED
    await still_answers(p)


async def test_an_unknown_method_is_unimplemented(p: Platform) -> None:
    """Method or service."""
    async with grpc.aio.insecure_channel(p.router.server.address) as channel:
        for path in (f"/{PREDICTIONS.full_name}/Guess", "/nobody.Nothing/Guess", "/turnout.v1.LedgerService/Append"):
            call: Any = channel.unary_unary(path)
            assert (await refusal(call(b"", timeout=5)))[0] is Code.UNIMPLEMENTED
    await still_answers(p)


def outcome(
    decision_id: str = "made", value: float = 1.0, at: int = 0, cost: float | None = None
) -> pb.RecordOutcomeRequest:
    return pb.RecordOutcomeRequest(decision_id=decision_id, value=value, occurred_at_unix_us=at, cost=cost)


async def test_wrong_outcomes_are_refused_one_by_one(p: Platform) -> None:
    """A value that the target cannot have, a date ahead or before 1970, a bad id; the list's others are taken."""
    await p.call.predict(decision_id="made")
    ahead = time.time_ns() // 1000 + 301_000_000
    wrong = {
        "value": [outcome(value=v) for v in (math.nan, math.inf, -math.inf, 0.5, 2, -1)],
        "occurred_at_unix_us": [outcome(at=at) for at in (ahead, 2**63 - 1, -1, -(2**63))],
        "decision_id": [outcome(i) for i in ("", "a b", "x" * 129)],
        "cost": [outcome(cost=c) for c in (math.nan, math.inf, -1e151)],
    }
    for field, requests in wrong.items():
        for request in requests:
            assert (await refusal(p.call("RecordOutcome", request)))[:2] == (Code.INVALID_ARGUMENT, field)
        listed = pb.RecordOutcomesRequest(outcomes=[*requests, outcome()])
        results = (await p.call("RecordOutcomes", listed)).results
        assert [r.WhichOneof("result") for r in results] == ["error"] * len(requests) + ["accepted"]
        assert {r.error.field for r in results[:-1]} == {field}
    for count in (0, 1001):
        listed = pb.RecordOutcomesRequest(outcomes=[outcome()] * count)
        code, field, _ = await refusal(p.call("RecordOutcomes", listed))
        assert (code, field) == (Code.INVALID_ARGUMENT, "outcomes")
    assert [r.outcome.value for r in p.records() if r.HasField("outcome")] == [1.0] * len(wrong)
    await still_answers(p, "made")


async def test_an_unknown_decision_is_not_found_when_the_ledger_can_tell(p: Platform) -> None:
    """With the ledger away nobody can tell, and the outcome is taken; a bad id beside it changes neither."""
    unknown = pb.RecordOutcomesRequest(outcomes=[outcome("x" * 129), outcome("nobody")])
    results = (await p.call("RecordOutcomes", unknown)).results
    assert [r.error.code for r in results] == [Code.INVALID_ARGUMENT.value[0], 0]
    async with hub_running(p.config_path, registry=CollectorRegistry(), drain_seconds=0):
        async with asyncio.timeout(10):
            while p.router.shipper.pending_bytes():
                await asyncio.sleep(0.01)
        code, field, sentence = await refusal(p.call("RecordOutcome", outcome("nobody-2")))
        assert (code, field) == (Code.NOT_FOUND, "decision_id")
        assert "nobody-2" in sentence
        unknown.outcomes[1].decision_id = "nobody-2"
        results = (await p.call("RecordOutcomes", unknown)).results
        assert [r.error.code for r in results] == [Code.INVALID_ARGUMENT.value[0], Code.NOT_FOUND.value[0]]
    await still_answers(p)


async def test_tenants_are_who_their_token_says_and_do_not_meet() -> None:
    """Missing and wrong tokens are UNAUTHENTICATED on every method; the same id of two tenants is two decisions."""
    tenants = {name: {"token_sha256": hashlib.sha256(f"of {name}".encode()).hexdigest()} for name in ("a", "b")}
    async with platform(tenants=tenants) as p:
        wrong = (
            None,
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            "Basic of a",
            "Bearer of a ",
            "Bearer of A",
            "Bearer " * 500,
        )
        for value in wrong:
            metadata = [("authorization", value)] if value else []
            code, field, sentence = await refusal(p.call("Predict", row(), metadata=metadata))
            assert (code, field) == (Code.UNAUTHENTICATED, "authorization"), value
            assert "wrong" not in sentence
        for method in UNARY:
            call = Caller(p.router.server.address, method.containing_service)
            assert (await refusal(call(method.name, b"")))[0] is Code.UNAUTHENTICATED
            await call.close()
        assert (await ended_by(p, row().SerializeToString()))[0] is Code.UNAUTHENTICATED
        for name, hour in (("a", 1), ("b", 2)):
            request = row(decision_id="same", numbers={**ROW, "hour": hour})
            await p.call("Predict", request, metadata=[("authorization", f"bearer of {name}")])
        assert [(d.tenant, d.decision_id) for d in p.decisions()] == [("a", "same"), ("b", "same")]


def tensor(name: str = "severity", datatype: str = "FP64", shape: tuple[int, ...] = (1,), **contents: Any) -> Any:
    made = oip.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    made.contents.SetInParent()
    for field, values in (contents or {"fp64_contents": [4.0]}).items():
        getattr(made.contents, field).extend(values)
    return made


def infer(*inputs: Any, model_name: str = "dispatch", raw: tuple[bytes, ...] = (), **fields: Any) -> Any:
    return oip.ModelInferRequest(model_name=model_name, inputs=inputs, raw_input_contents=raw, **fields)


Out = oip.ModelInferRequest.InferRequestedOutputTensor
TEXT = oip.InferParameter(string_param="d")
CATEGORY: dict[str, Any] = {"name": "call_type", "datatype": "BYTES"}
BAD_INFERS: dict[str, tuple[oip.ModelInferRequest, Code, str]] = {
    "an unknown model": (infer(tensor(), model_name="nope"), Code.NOT_FOUND, "family"),
    "an unknown output": (infer(tensor(), outputs=[Out(name="x" * 999)]), Code.NOT_FOUND, "outputs"),
    "an output 10 000 times": (infer(tensor(), outputs=[Out(name="arm")] * 10_000), Code.INVALID_ARGUMENT, "outputs"),
    "no input": (infer(), Code.INVALID_ARGUMENT, "inputs"),
    "an input twice": (infer(tensor(), tensor()), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "an unknown input": (infer(tensor("colour")), Code.INVALID_ARGUMENT, "inputs[colour]"),
    "a required input left out": (infer(tensor("hour")), Code.INVALID_ARGUMENT, "numbers[severity]"),
    "the wrong datatype": (infer(tensor(datatype="BYTES")), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "an unknown datatype": (infer(tensor(datatype="FP16")), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "contents of another type": (infer(tensor(fp32_contents=[1])), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "no shape": (infer(tensor(shape=())), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "a wide shape": (infer(tensor(shape=(1, 2))), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "a deep shape": (infer(tensor(shape=(1, 1, 1))), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "no rows": (infer(tensor(shape=(0,))), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "minus one row": (infer(tensor(shape=(-1,))), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "too many rows": (infer(tensor(shape=(1001,))), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "rows without end": (infer(tensor(shape=(2**62,))), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "fewer values than rows": (infer(tensor(shape=(2,))), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "unequal rows": (
        infer(tensor(), tensor("hour", shape=(2,), fp64_contents=[1, 2])),
        Code.INVALID_ARGUMENT,
        "inputs[hour]",
    ),
    "infinity": (infer(tensor(fp64_contents=[math.inf])), Code.INVALID_ARGUMENT, "numbers[severity]"),
    "the largest integer": (
        infer(tensor(datatype="INT64", int64_contents=[2**63 - 1])),
        Code.INVALID_ARGUMENT,
        "numbers[severity]",
    ),
    "half a number": (infer(tensor(), raw=(b"1234567",)), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "no raw bytes": (infer(tensor(), raw=(b"",)), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "raw bytes too many": (infer(tensor(), raw=(b"8" * 16,)), Code.INVALID_ARGUMENT, "inputs[severity]"),
    "a raw entry too many": (infer(tensor(), raw=(b"8" * 8,) * 2), Code.INVALID_ARGUMENT, "raw_input_contents"),
    "a text longer than its data": (
        infer(tensor(**CATEGORY), raw=(b"\xff\xff\xff\xff",)),
        Code.INVALID_ARGUMENT,
        "inputs[call_type]",
    ),
    "half a length": (infer(tensor(**CATEGORY), raw=(b"\1\0",)), Code.INVALID_ARGUMENT, "inputs[call_type]"),
    "a text that is no UTF-8": (
        infer(tensor(**CATEGORY, bytes_contents=[b"\xff"])),
        Code.INVALID_ARGUMENT,
        "inputs[call_type]",
    ),
    "an id for two rows": (
        infer(tensor(shape=(2,), fp64_contents=[1, 2]), parameters={"decision_id": TEXT}),
        Code.INVALID_ARGUMENT,
        "parameters[decision_id]",
    ),
    "an id that is a number": (
        infer(tensor(), parameters={"decision_id": oip.InferParameter(int64_param=7)}),
        Code.INVALID_ARGUMENT,
        "parameters[decision_id]",
    ),
    "a bad id": (
        infer(tensor(), parameters={"decision_id": oip.InferParameter(string_param="a b")}),
        Code.INVALID_ARGUMENT,
        "decision_id",
    ),
}


async def test_wrong_inferences_of_other_clients_are_refused(p: Platform) -> None:
    """The Open Inference Protocol gives the same codes and sentences."""
    call = Caller(p.router.server.address, OIP)
    for case, (request, expected, where) in BAD_INFERS.items():
        code, field, sentence = await refusal(call("ModelInfer", request))
        assert (code, field) == (expected, where), (case, sentence)
        assert len(sentence) < 250, case
    assert (await refusal(call("ModelMetadata", oip.ModelMetadataRequest(name="nope"))))[0] is Code.NOT_FOUND
    assert not (await call("ModelReady", oip.ModelReadyRequest(name="nope"))).ready
    await call.close()
    await still_answers(p)


def test_no_bytes_and_no_message_bring_out_anything_but_a_canonical_answer() -> None:
    """Random bytes and random messages, on every method."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        p = runner.run(stack.enter_async_context(platform()))
        callers = {s.full_name: Caller(p.router.server.address, s) for s in (PREDICTIONS, OIP)}

        async def code_of(method: Any, request: Message | bytes) -> Code:
            if method.client_streaming:
                raw = request if isinstance(request, bytes) else request.SerializeToString()
                return (await ended_by(p, raw))[0]
            try:
                await callers[method.containing_service.full_name](method.name, request)
            except grpc.aio.AioRpcError as error:
                code, sentence = error.code(), error.details() or ""
            else:
                code, sentence = Code.OK, ""
            assert not TELLTALE.search(sentence), sentence
            return code

        methods = [*UNARY, PREDICTIONS.methods_by_name["PredictStream"]]
        quiet = settings(max_examples=200, suppress_health_check=list(HealthCheck), database=None)
        try:
            for method in methods:
                requests = st.binary(max_size=200) | messages(GetMessageClass(method.input_type))

                @quiet
                @given(request=requests, method=st.just(method))
                def law(request: Message | bytes, method: Any) -> None:
                    assert runner.run(code_of(method, request)) in ALLOWED, (method.full_name, request)

                law()
            runner.run(p.call.predict(decision_id="good"))
            assert p.decisions()[-1].decision_id == "good"
        finally:
            for caller in callers.values():
                runner.run(caller.close())
            runner.run(stack.aclose())
