"""The router always answers: by the assigned arm, or by the rules with the reason."""

from __future__ import annotations

import asyncio
import struct

import grpc
import pytest

from router.resilience.reasons import Fallback
from tests.integration.batches import answers, batch
from tests.integration.platform_under_test import ROW, SCHEMA, connected, experiment, model_serving, platform
from turnout.v1 import prediction_pb2


def reason(answer: prediction_pb2.PredictResponse) -> Fallback:
    """The reason of an answer's fallback."""
    return Fallback(answer.fallback)


async def test_the_assigned_arm_answers_and_the_journal_holds_what_was_said() -> None:
    """Value, arm, served variant, version and propensity come back, and the very same stands in the journal."""
    async with platform() as p:
        answer = await p.call.predict(unit_id="incident-1", region="north")
        assert answer.value == pytest.approx(0.4)
        assert (answer.assignment.arm, answer.served_variant) == ("candidate", "fake")
        assert (answer.model_version, answer.assignment.propensity, reason(answer)) == ("fake:1", 1.0, Fallback.NONE)
        (decision,) = p.decisions()
        assert decision.prediction == answer
        assert (decision.unit_id, decision.region, decision.tenant) == ("incident-1", "north", "default")
        assert struct.unpack("<12f", decision.features)[0] == 4.0


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (float("nan"), Fallback.INVALID),
        (1.7, Fallback.INVALID),
        (-0.2, Fallback.INVALID),
        (-99.0, Fallback.INVALID),  # the fake leaves the output away: wrong shape
        (-13.0, Fallback.ERROR),  # the fake reports a failure
        (None, Fallback.TIMEOUT),  # the fake never answers
    ],
)
async def test_a_bad_answer_of_the_arm_is_replaced_by_the_rules(output: float | None, expected: Fallback) -> None:
    """NaN, out of range, wrong shape, an error and silence each give the rules' answer with their own reason."""
    async with platform() as p:
        p.model.behaviour = lambda _: output
        answer = await p.call.predict(timeout=0.4)
        assert (answer.served_variant, reason(answer)) == ("rules", expected)
        assert answer.assignment.arm == "candidate"
        assert 0 <= answer.value <= 1
        assert answer.reasons
        p.model.behaviour = lambda row: row[0] / 10
        assert (await p.call.predict()).served_variant == "fake"


async def test_without_a_backend_the_rules_answer_at_once() -> None:
    """A variant that nobody serves costs no waiting."""
    async with platform(with_model=False) as p:
        answer = await p.call.predict()
        assert (answer.served_variant, reason(answer)) == ("rules", Fallback.UNAVAILABLE)


async def test_a_model_server_that_dies_and_comes_back_costs_no_call() -> None:
    """Calls during the outage are answered by the rules; afterwards by the model again."""
    async with platform(with_model=False) as p:
        address = p.config["families"]["dispatch"]["variants"]["fake"]["addresses"][0]
        async with model_serving(p.model, address):
            await connected(p.router)
            assert (await p.call.predict()).served_variant == "fake"
        assert (await p.call.predict()).served_variant == "rules"
        async with model_serving(p.model, address):
            await connected(p.router)
            assert (await p.call.predict()).served_variant == "fake"


async def test_calls_under_way_when_the_connection_breaks_are_answered_by_the_rules() -> None:
    """A server that goes away in the middle of a call does not take the call along."""
    async with platform(with_model=False) as p:
        address = p.config["families"]["dispatch"]["variants"]["fake"]["addresses"][0]
        async with model_serving(p.model, address):
            await connected(p.router)
            p.model.behaviour = lambda _: None
            call = asyncio.create_task(p.call.predict(timeout=5))
            await p.model.asked.wait()
        answer = await call
        assert (answer.served_variant, reason(answer)) == ("rules", Fallback.CONNECTION)


async def test_a_server_with_another_schema_never_answers() -> None:
    """A wrong address is noticed before its answers do harm."""
    async with platform(with_model=False) as p:
        address = p.config["families"]["dispatch"]["variants"]["fake"]["addresses"][0]
        p.model.schema_digest = 1
        async with model_serving(p.model, address):
            pool = p.router.decider.table.routes["dispatch"].pools["fake"]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await connected(p.router)
            assert pool.pick() is None
            assert reason(await p.call.predict()) == Fallback.UNAVAILABLE


async def test_little_time_left_is_given_to_the_rules() -> None:
    """With less than the reserve left the arm is not asked."""
    async with platform() as p:
        answer = await p.call.predict(timeout=0.045)
        assert (answer.served_variant, reason(answer)) == ("rules", Fallback.NO_TIME)
        assert p.model.rows_seen == 0


async def test_a_cancelled_call_is_recorded() -> None:
    """The caller's cancel kills the waiting, not the record."""
    async with platform() as p:
        p.model.behaviour = lambda _: None
        call = asyncio.create_task(p.call.predict(unit_id="gone"))
        await p.model.asked.wait()
        call.cancel()
        async with asyncio.timeout(5):
            while not p.decisions():
                await asyncio.sleep(0.005)
        (decision,) = p.decisions()
        assert (decision.unit_id, reason(decision.prediction)) == ("gone", Fallback.CANCELLED)


async def test_a_batch_keeps_its_order_over_arms() -> None:
    """Rows that go to different arms come back in the order in which they were sent."""
    async with platform(experiments={"dispatch": experiment(rules=50, model=50)}) as p:
        rows = [
            prediction_pb2.PredictRequest(unit_id=f"u{i}", numbers={**ROW, "severity": 1 + i % 5}) for i in range(200)
        ]
        reply = await p.call("PredictBatch", batch(rows))
        given = answers(reply)
        assert len(given) == 200
        arms = {answer.assignment.arm for answer in given}
        assert arms == {"control", "candidate"}
        for index, answer in enumerate(given):
            if answer.served_variant == "fake":
                assert answer.value == pytest.approx((1 + index % 5) / 10)
        assert sorted(d.decision_id for d in p.decisions()) == sorted(a.decision_id for a in given)


async def test_a_row_of_a_batch_gets_what_it_would_get_alone() -> None:
    """Answer, assignment and record, over two arms, with answers that may not be used, whatever of a row is known."""
    async with platform(experiments={"dispatch": experiment(rules=50, model=50)}) as p:
        p.model.behaviour = lambda row: row[0] / 4
        rows = [
            prediction_pb2.PredictRequest(
                family="dispatch",
                unit_id=f"u{number}",
                region="r" if number % 3 else "",
                numbers={"severity": 1 + number % 5}
                | ({"hour": number / 7, "distance_km": 1e-3} if number % 2 else {}),
                categories={"call_type": "fire"} if number % 4 else {},
            )
            for number in range(60)
        ]
        together = answers(await p.call("PredictBatch", batch(rows)))
        alone = [await p.call("Predict", row) for row in rows]
        records = {decision.decision_id: decision for decision in p.decisions()}
    assert {reason(answer) for answer in alone} == {Fallback.NONE, Fallback.INVALID}
    for one, other in zip(together, alone, strict=True):
        recorded = [records[answer.decision_id] for answer in (one, other)]
        assert [decision.prediction for decision in recorded] == [one, other]
        for answer in (one, other):
            answer.ClearField("decision_id")
            del answer.attempts[:]
        assert one == other
        for decision in recorded:
            for name in ("decision_id", "prediction", "assigned_at_unix_us", "latency_us"):
                decision.ClearField(name)
        assert recorded[0] == recorded[1]


async def test_a_stream_answers_each_call_by_its_number_and_refuses_bad_ones_alone() -> None:
    """Good and bad calls share frames; each gets its own result; the stream goes on."""
    async with platform() as p:
        stream = p.call.method("PredictStream")()
        calls = []
        for number in range(1, 101):
            request = prediction_pb2.PredictRequest(family="dispatch" if number % 10 else "nope", numbers=ROW)
            calls.append(prediction_pb2.PredictCall(call_id=number, request=request))
        await stream.write(prediction_pb2.PredictStreamRequest(calls=calls[:60]))
        await stream.write(prediction_pb2.PredictStreamRequest(calls=calls[60:]))
        results: dict[int, prediction_pb2.PredictResult] = {}
        async with asyncio.timeout(5):
            while len(results) < 100:
                frame = await stream.read()
                results.update({result.call_id: result for result in frame.results})
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        for number, result in results.items():
            if number % 10:
                assert result.prediction.served_variant == "fake"
            else:
                assert result.error.code == grpc.StatusCode.NOT_FOUND.value[0]
                assert result.error.field == "family"


async def test_explain_names_the_feature_that_moved_the_answer() -> None:
    """Contributions come from the model server, largest first; the rules give reasons; nothing is recorded."""
    async with platform() as p:
        request = prediction_pb2.PredictRequest(family="dispatch", numbers=ROW)
        reply = await p.call("Explain", prediction_pb2.ExplainRequest(request=request))
        assert reply.contributions[0].feature == "severity"
        assert reply.value - reply.base_value == pytest.approx(sum(c.contribution for c in reply.contributions))
        assert {c.feature: c.value for c in reply.contributions}["patient_age"] == "missing"
        rules = await p.call("Explain", prediction_pb2.ExplainRequest(request=request, variant="rules"))
        assert rules.reasons
        assert not rules.contributions
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await p.call("Explain", prediction_pb2.ExplainRequest(request=request, variant="nope"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert p.decisions() == []


async def test_a_family_without_an_experiment_is_answered_by_its_rules() -> None:
    """Rules need no experiment and no backend."""
    async with platform(with_model=False, experiments={}) as p:
        answer = await p.call.predict()
        assert (answer.served_variant, reason(answer), answer.assignment.arm) == ("rules", Fallback.NONE, "")
        assert answer.model_version.startswith("rules-")
        assert len(SCHEMA) == 12
