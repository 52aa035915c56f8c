"""Each trigger of the fallback gives the rules' answer, or the next arm's, with its own reason and its own count."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from bentos.family import RULES
from inference import open_inference_pb2
from router.backends.link import Link
from router.backends.results import Failure
from router.resilience.breaker import BreakerState
from router.resilience.reasons import Fallback
from tests.integration.platform_under_test import (
    ROW,
    Caller,
    FakeModel,
    Platform,
    connected,
    experiment,
    model_serving,
    platform,
)
from turnout.v1 import prediction_pb2


def reason(answer: prediction_pb2.PredictResponse) -> Fallback:
    """The reason of an answer's fallback."""
    return Fallback(answer.fallback)


def link_of(p: Platform, variant: str = "fake", index: int = 0) -> Link:
    """A link of a variant."""
    return p.router.decider.table.routes["dispatch"].pools[variant].links[index]


def families(policy: dict[str, Any] | None = None, **variants: list[str]) -> dict[str, Any]:
    """The configuration of the family with these addresses by variant."""
    return {
        "dispatch": {
            "policy": policy or {},
            "variants": {name: {"addresses": addresses} for name, addresses in variants.items()},
        }
    }


@contextlib.asynccontextmanager
async def backends(count: int, **changes: Any) -> AsyncIterator[tuple[Platform, list[FakeModel]]]:
    """A router whose variant `fake` has several backends; `changes` go into the family's policy."""
    with tempfile.TemporaryDirectory() as folder:
        models = [FakeModel(version=f"fake:{index}") for index in range(count)]
        addresses = [f"unix:{folder}/{index}.sock" for index in range(count)]
        async with contextlib.AsyncExitStack() as stack:
            for model, address in zip(models, addresses, strict=True):
                await stack.enter_async_context(model_serving(model, address))
            p = await stack.enter_async_context(platform(with_model=False, families=families(changes, fake=addresses)))
            async with asyncio.timeout(10):
                for index in range(count):
                    await link_of(p, index=index).opened.wait()
            yield p, models


async def test_failures_open_the_breaker_and_a_knock_closes_it_soon_after_the_backend_is_well() -> None:
    """Five errors, then no more calls reach the model; two seconds after it is well, it answers again."""
    async with platform() as p:
        p.model.behaviour = lambda _: -13.0
        reasons = [reason(await p.call.predict()) for _ in range(8)]
        assert reasons == [Fallback.ERROR] * 5 + [Fallback.BREAKER_OPEN] * 3
        p.model.behaviour = lambda row: row[0] / 10
        shown = {sample.name: sample.value for metric in p.router.registry.collect() for sample in metric.samples}
        assert (shown["turnout_breaker_open"], shown["turnout_breaker_opened_total"]) == (1.0, 1.0)
        async with asyncio.timeout(10):
            while reason(await p.call.predict()) is not Fallback.NONE:
                await asyncio.sleep(0.01)
        assert link_of(p).guard.state is BreakerState.CLOSED
        assert link_of(p).guard.opened == 1


async def test_answers_that_cannot_be_used_open_the_breaker_as_well() -> None:
    """NaN comes in time and counts as failed."""
    async with platform() as p:
        p.model.behaviour = lambda _: float("nan")
        reasons = [reason(await p.call.predict()) for _ in range(6)]
        assert reasons == [Fallback.INVALID] * 5 + [Fallback.BREAKER_OPEN]


async def test_what_was_asked_on_the_way_is_told_and_recorded() -> None:
    """After an error the answer names the attempt, its failure and its duration; an ordinary answer names none."""
    async with platform() as p:
        assert not (await p.call.predict()).attempts
        p.model.behaviour = lambda _: -13.0
        answer = await p.call.predict()
        (attempt,) = answer.attempts
        assert (attempt.variant, Fallback(attempt.failure), attempt.hedge) == ("fake", Fallback.ERROR, False)
        assert 0 < attempt.duration_us < 5_000_000
        assert p.decisions()[-1].prediction == answer
        batch = prediction_pb2.PredictBatchRequest(family="dispatch", rows=2)
        batch.numbers["severity"].values.extend([1.0, 2.0])
        reply = await p.call("PredictBatch", batch)
        assert [len(shared.attempts) for shared in reply.shared] == [1]


async def test_the_next_arm_answers_when_the_policy_names_one() -> None:
    """The assigned arm's failure is the reason, the next arm the one that served, and both attempts are told."""
    with tempfile.TemporaryDirectory() as folder:
        other = FakeModel(behaviour=lambda _: 0.25, version="other:1")
        async with model_serving(other, f"unix:{folder}/o.sock"), platform() as p:
            here = p.config["families"]["dispatch"]["variants"]["fake"]["addresses"]
            given = families({"fallback_arms": ["other"]}, fake=here, other=[f"unix:{folder}/o.sock"])
            p.write(families=given)
            async with asyncio.timeout(10):
                while "other" not in p.router.decider.table.routes["dispatch"].pools:
                    await asyncio.sleep(0.005)
            await connected(p.router, "other")
            p.model.behaviour = lambda _: -13.0
            answer = await p.call.predict()
            assert (answer.value, answer.served_variant, answer.model_version) == (0.25, "other", "other:1")
            assert (answer.assignment.arm, reason(answer)) == ("candidate", Fallback.ERROR)
            assert [(a.variant, Fallback(a.failure)) for a in answer.attempts] == [
                ("fake", Fallback.ERROR),
                ("other", Fallback.NONE),
            ]
            p.model.behaviour = lambda _: 1.7
            assert (await p.call.predict()).served_variant == "other"


async def test_an_answer_with_too_little_confidence_is_replaced() -> None:
    """The policy's minimum holds for single calls and for each row of a batch."""
    async with backends(1, min_confidence=0.9) as (p, (model,)):
        model.behaviour = lambda row: 0.5 if row[0] < 3 else 0.999
        family = p.router.decider.table.routes["dispatch"].family
        assert family.confidence(0.5) < 0.9 < family.confidence(0.999)
        unsure = await p.call.predict(numbers={**ROW, "severity": 1.0})
        assert (unsure.served_variant, reason(unsure)) == (RULES, Fallback.LOW_CONFIDENCE)
        assert (await p.call.predict(numbers={**ROW, "severity": 4.0})).served_variant == "fake"
        batch = prediction_pb2.PredictBatchRequest(family="dispatch", rows=2)
        batch.numbers["severity"].values.extend([1.0, 4.0])
        reply = await p.call("PredictBatch", batch)
        reasons = [reason(reply.shared[place]) for place in reply.shared_places]
        assert reasons == [Fallback.LOW_CONFIDENCE, Fallback.NONE]


async def test_a_row_unlike_what_the_variant_learned_from_goes_to_the_rules() -> None:
    """Only where the policy asks for it, and without asking the model."""
    async with backends(1, outside_training="rules") as (p, (model,)):
        link = link_of(p)
        assert link.served is not None
        assert reason(await p.call.predict()) is Fallback.NONE, "this model does not say what it learned from"
        bounds = (
            (1.0, 3.0),
            *[(float("-inf"), float("inf"))] * (len(p.router.decider.table.routes["dispatch"].family.schema) - 1),
        )
        link.served = type(link.served)(link.served.variant, link.served.version, link.served.outputs, bounds)
        seen = model.rows_seen
        strange = await p.call.predict(numbers={**ROW, "severity": 5.0})
        assert (strange.served_variant, reason(strange)) == (RULES, Fallback.OUT_OF_DISTRIBUTION)
        assert model.rows_seen == seen
        assert reason(await p.call.predict(numbers={**ROW, "severity": 2.0})) is Fallback.NONE


async def test_a_critical_alert_keeps_calls_away_from_a_variant() -> None:
    """Where the policy says so, and for as long as it stands."""
    async with backends(1, critical_alert="rules") as (p, _):
        p.router.alerts.replace([("dispatch", "fake")])
        assert reason(await p.call.predict()) is Fallback.ALERT
        p.router.alerts.replace([])
        assert reason(await p.call.predict()) is Fallback.NONE


async def test_a_variant_that_scales_to_zero_is_cold_and_not_away() -> None:
    """The rules answer while nobody serves it, with a reason of their own."""
    address = "unix:/nowhere/to-be-found.sock"
    given = {"dispatch": {"variants": {"fake": {"addresses": [address], "scale_to_zero": True}}}}
    async with platform(with_model=False, families=given) as p:
        assert reason(await p.call.predict()) is Fallback.COLD_START


async def test_over_the_concurrency_limit_the_rules_answer_at_once() -> None:
    """With four calls under way at a backend that takes four, the fifth does not wait."""
    async with backends(1, concurrency={"lowest": 4, "first": 4, "highest": 4}) as (p, (model,)):
        model.behaviour = lambda _: None
        waiting = [asyncio.create_task(p.call.predict(timeout=1.0)) for _ in range(4)]
        async with asyncio.timeout(10):
            while link_of(p).in_flight < 4:
                await asyncio.sleep(0.001)
        fifth = await p.call.predict()
        assert reason(fifth) is Fallback.CONCURRENCY
        assert not fifth.attempts
        assert {reason(answer) for answer in await asyncio.gather(*waiting)} == {Fallback.TIMEOUT}


async def test_a_slow_answer_is_hedged_by_another_backend() -> None:
    """A copy goes out after the usual time; the first answer counts, and the slow one is told as asked."""
    async with backends(2, hedge=True) as (p, models):
        async with asyncio.timeout(60):
            while any(link_of(p, index=i).guard.latency.p95 is None for i in range(2)):
                await asyncio.gather(*(p.call.predict() for _ in range(16)))
        while not p.router.decider.table.routes["dispatch"].pools["fake"].hedges.left:
            await p.call.predict()
        models[0].behaviour = lambda _: None
        models[1].behaviour = lambda row: row[0] / 10
        hedged = []
        for _ in range(4):
            answer = await p.call.predict(timeout=5.0)
            hedged += [attempt for attempt in answer.attempts if attempt.hedge]
            if hedged:
                assert (answer.served_variant, reason(answer), answer.model_version) == (
                    "fake",
                    Fallback.NONE,
                    "fake:1",
                )
                break
        assert hedged


async def test_a_broken_connection_is_retried_elsewhere_within_the_allowance() -> None:
    """The copy on the other backend answers, and the answer tells of both."""
    async with backends(2) as (p, _):
        pool = p.router.decider.table.routes["dispatch"].pools["fake"]
        for _ in range(10):
            await p.call.predict()
        broken = pool.links[0]
        submitted = broken.submit
        broken.submit = lambda *_: _failing(broken)  # type: ignore[method-assign]
        answers = [await p.call.predict() for _ in range(4)]
        broken.submit = submitted  # type: ignore[method-assign]
        retried = [answer for answer in answers if answer.attempts]
        assert retried
        assert (retried[0].served_variant, retried[0].model_version) == ("fake", "fake:1")
        assert [Fallback(a.failure) for a in retried[0].attempts] == [Fallback.CONNECTION, Fallback.NONE]


def _failing(link: Link) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_result(Failure.CONNECTION)
    return future


async def test_a_repeated_call_with_less_time_is_answered_in_its_own() -> None:
    """The first call waits for the model; the second one gets the rules' answer, and one decision is recorded."""
    async with platform() as p:
        p.model.behaviour = lambda _: None
        first = asyncio.create_task(p.call.predict(decision_id="twice", timeout=3.0))
        await p.model.asked.wait()
        second = await p.call.predict(decision_id="twice", timeout=0.3)
        assert (second.served_variant, reason(second), second.assignment.arm) == (RULES, Fallback.NO_TIME, "")
        assert second.durability == prediction_pb2.DURABILITY_UNSPECIFIED
        answer = await first
        assert reason(answer) is Fallback.TIMEOUT
        assert [d.prediction for d in p.decisions()] == [answer]
        assert await p.call.predict(decision_id="twice") == answer


async def test_a_tenant_over_its_rate_is_told_when_to_come_back() -> None:
    """RESOURCE_EXHAUSTED with RetryInfo and trailing metadata; another tenant is served."""

    def tenant(token: str, **bounds: Any) -> dict[str, Any]:
        return {"token_sha256": hashlib.sha256(token.encode()).hexdigest(), **bounds}

    limits = [{"decisions": 100, "per": "minute"}, {"decisions": 1000, "per": "hour"}]
    tenants = {"small": tenant("s", rate_limits=limits), "large": tenant("l")}
    async with platform(tenants=tenants, operators={"ada": {"token_sha256": "0" * 64}}) as p:

        async def predict(token: str) -> prediction_pb2.PredictResponse:
            request = prediction_pb2.PredictRequest(family="dispatch", numbers=ROW)
            answer: prediction_pb2.PredictResponse = await p.call(
                "Predict", request, metadata=(("authorization", f"Bearer {token}"),)
            )
            return answer

        for _ in range(100):
            await predict("s")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await predict("s")
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "100 a minute and 1000 a hour" in (refused.value.details() or "")
        trailers = dict(refused.value.trailing_metadata() or ())
        assert 1 <= int(trailers["retry-after-ms"]) <= 700
        details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details
        retry = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(retry) for detail in details)
        assert retry.retry_delay.ToMilliseconds() == int(trailers["retry-after-ms"])
        assert (await predict("l")).served_variant == "fake"


async def test_explanations_count_among_a_tenants_calls_under_way() -> None:
    """They cost a model more than a decision does: a tenant's bound holds for them as well."""
    tenants = {"small": {"token_sha256": hashlib.sha256(b"s").hexdigest(), "max_concurrent_calls": 1}}
    async with platform(tenants=tenants, operators={"ada": {"token_sha256": "0" * 64}}) as p:
        credential = (("authorization", "Bearer s"),)
        request = prediction_pb2.PredictRequest(family="dispatch", numbers=ROW)
        asked = prediction_pb2.ExplainRequest(request=request, variant="fake")
        assert (await p.call("Explain", asked, metadata=credential)).variant == "fake"
        p.model.behaviour = lambda _: None
        waiting = asyncio.create_task(p.call("Predict", request, timeout=3.0, metadata=credential))
        await p.model.asked.wait()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await p.call("Explain", asked, metadata=credential)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting.cancel()


async def test_a_variant_that_moves_loses_no_call() -> None:
    """While the file changes the addresses back and forth under load, the model answers every call."""
    with tempfile.TemporaryDirectory() as folder:
        addresses = [f"unix:{folder}/{index}.sock" for index in range(2)]
        async with contextlib.AsyncExitStack() as stack:
            for index, address in enumerate(addresses):
                await stack.enter_async_context(model_serving(FakeModel(version=f"fake:{index}"), address))
            p = await stack.enter_async_context(platform(with_model=False, families=families(fake=addresses[:1])))
            await connected(p.router)
            served: list[prediction_pb2.PredictResponse] = []
            for turn in range(1, 5):
                p.write(families=families(fake=[addresses[turn % 2]]))
                async with asyncio.timeout(20):
                    while not served or served[-1].model_version != f"fake:{turn % 2}":
                        served += await asyncio.gather(*(p.call.predict() for _ in range(8)))
            assert {answer.served_variant for answer in served} == {"fake"}
            assert {reason(answer) for answer in served} == {Fallback.NONE}


async def test_calls_under_way_to_a_retired_variant_finish() -> None:
    """A variant that leaves the file is closed only after its last answer."""
    async with platform() as p:
        link = link_of(p)
        release = asyncio.Event()
        p.model.held = release
        call = asyncio.create_task(p.call.predict(timeout=5.0))
        await p.model.asked.wait()
        only_rules = experiment() | {"arms": {"control": {"variant": "rules", "weight": 1}}, "revision": 2}
        p.write(families={"dispatch": {"variants": {}}}, experiments={"dispatch": only_rules})
        async with asyncio.timeout(10):
            while p.router.decider.table.routes["dispatch"].pools:
                await asyncio.sleep(0.005)
        release.set()
        answer = await call
        assert (answer.served_variant, reason(answer)) == ("fake", Fallback.NONE)
        async with asyncio.timeout(10):
            while link.served is not None:
                await asyncio.sleep(0.005)


async def test_each_refusal_is_counted_once_by_service_and_code() -> None:
    """On PredictionService and on the Open Inference Protocol alike."""
    async with platform() as p:
        with pytest.raises(grpc.aio.AioRpcError):
            await p.call.predict(family="nope")
        oip = Caller(p.router.server.address, open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"])
        with pytest.raises(grpc.aio.AioRpcError):
            await oip("ModelInfer", open_inference_pb2.ModelInferRequest(model_name="nope"))
        await oip.close()
        samples = {
            sample.labels["service"]: (sample.labels["code"], sample.value)
            for metric in p.router.registry.collect()
            for sample in metric.samples
            if sample.name == "turnout_refused_calls_total"
        }
        assert samples == {
            "turnout.v1.PredictionService": ("5", 1.0),
            "inference.GRPCInferenceService": ("5", 1.0),
        }
