"""Shadows get copies after the caller was answered; their answers are compared, and they can cost nobody anything."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
import structlog

from bentos.family import load
from router import shadow_records, shadowing
from router.journal import newest
from router.shadowing import MOST_WAITING, agree
from tests.integration.platform_under_test import (
    ROW,
    FakeModel,
    Platform,
    connected,
    experiment,
    model_serving,
    platform,
)
from turnout.v1 import ledger_pb2, prediction_pb2


def counted(p: Platform, result: str) -> float:
    """Rows of the shadow so far, by result."""
    value: float = p.router.decider.experiment_metrics._shadow_rows.labels("dispatch", "other", result)._value.get()
    return value


async def until(p: Platform, rows: float) -> dict[str, float]:
    """Waits until so many rows were accounted for."""
    async with asyncio.timeout(20):
        while True:
            found = {result: counted(p, result) for result in ("agrees", "differs", "failed", "dropped")}
            if sum(found.values()) >= rows:
                return found
            await asyncio.sleep(0.01)


def journaled(p: Platform) -> list[ledger_pb2.JournalRecord]:
    """All records of the router's journal."""
    return [ledger_pb2.JournalRecord.FromString(one) for one in newest(p.router.journal.folder, 10_000)]


async def configured(p: Platform, address: str, percent: float = 100) -> None:
    """Adds the shadow to a running router."""
    variants = p.config["families"]["dispatch"]["variants"] | {"other": {"addresses": [address]}}
    p.write(
        families={"dispatch": {"variants": variants}},
        experiments={"dispatch": experiment(shadows={"other": percent}) | {"revision": 2}},
    )
    async with asyncio.timeout(10):
        while "other" not in p.router.decider.table.routes["dispatch"].pools:
            await asyncio.sleep(0.01)


def batch(rows: int, first: int = 0) -> prediction_pb2.PredictBatchRequest:
    """A batch of equal rows with ids of their own."""
    numbers = {name: prediction_pb2.NumberColumn(values=[value] * rows) for name, value in ROW.items()}
    ids = [f"d-{first + number}" for number in range(rows)]
    return prediction_pb2.PredictBatchRequest(family="dispatch", rows=rows, decision_ids=ids, numbers=numbers)


async def test_shadow_answers_are_compared_with_what_callers_were_told(tmp_path: Any) -> None:
    """Every row is accounted for, by single calls and by batches; callers only ever hear the arm."""
    other = FakeModel(behaviour=lambda row: 0.4 if row[0] == ROW["severity"] else 0.95)
    address = f"unix:{tmp_path}/other.sock"
    async with platform() as p, model_serving(other, address):
        await configured(p, address)
        await connected(p.router, "other")
        for number in range(10):
            said = await p.call.predict(unit_id=str(number))
            assert (said.served_variant, said.assignment.arm) == ("fake", "candidate")
        await p.call.predict(numbers=ROW | {"severity": 1.0})
        found = await until(p, 11)
        assert found == {"agrees": 10, "differs": 1, "failed": 0, "dropped": 0}
        await p.call("PredictBatch", batch(100))
        assert await until(p, 111) == {"agrees": 110, "differs": 1, "failed": 0, "dropped": 0}
        assert other.rows_seen == 111
        answers = [one.shadow_answer for one in journaled(p) if one.HasField("shadow_answer")]
        told = {one.decision.decision_id: one.decision for one in journaled(p) if one.HasField("decision")}
        assert len({one.decision_id for one in answers}) == len(answers) == 111
        assert Counter(one.agrees for one in answers) == {True: 110, False: 1}
        for one in answers:
            decision = told[one.decision_id]
            said = decision.prediction
            assert (one.tenant, one.family, one.variant) == (decision.tenant, "dispatch", "other")
            assert one.experiment == said.assignment.experiment
            assert one.assigned_at_unix_us == decision.assigned_at_unix_us
            assert (one.told_value, one.told_confidence, one.served_variant) == (said.value, said.confidence, "fake")
            assert one.told_latency_us == decision.latency_us
            assert (one.failure, one.model_version) == (0, "fake:1")
            assert one.latency_us > 0


async def test_journal_in_need_leaves_shadows_out(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shadow answered is compared and counted, and nothing of it is written while the disk refuses."""
    other = FakeModel()
    address = f"unix:{tmp_path}/other.sock"
    async with platform() as p, model_serving(other, address):
        await configured(p, address)
        await connected(p.router, "other")
        monkeypatch.setattr(p.router.journal, "_max_bytes", 2 * p.router.journal.status.disk_bytes - 1)
        before = p.router.journal.status.started
        await p.call("PredictBatch", batch(10))
        async with asyncio.timeout(10):
            while counted(p, "unrecorded") < 10:
                await asyncio.sleep(0.01)
        assert (await until(p, 10))["agrees"] == 10
        assert p.router.journal.status.started == before + 10


async def test_shadow_gets_its_percentage_of_the_decisions(tmp_path: Any) -> None:
    """By hash of the decision: the same part on every router, whatever the units."""
    other = FakeModel()
    address = f"unix:{tmp_path}/other.sock"
    async with platform() as p, model_serving(other, address):
        await configured(p, address, percent=25)
        await connected(p.router, "other")
        for first in range(0, 2000, 200):
            await p.call("PredictBatch", batch(200, first))
            await asyncio.sleep(0.02)
        async with asyncio.timeout(10):
            while p.router.decider.shadows.busy:
                await asyncio.sleep(0.01)
        assert 500 - 97 < sum((await until(p, 1)).values()) < 500 + 97


async def test_hung_shadow_drops_and_costs_nobody_anything(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is bounded; what does not fit is counted, what it does not answer too, and all callers hear the arm."""
    monkeypatch.setattr(shadowing, "ANSWER_SECONDS", 0.1)
    other = FakeModel(behaviour=lambda _: None)
    address = f"unix:{tmp_path}/other.sock"
    async with platform() as p, model_serving(other, address):
        await configured(p, address)
        await connected(p.router, "other")
        for first in (0, 1000, 2000, 3000):
            reply = await p.call("PredictBatch", batch(1000, first))
            assert {shared.served_variant for shared in reply.shared} == {"fake"}
        found = await until(p, 4000)
        assert found["dropped"] >= 4000 - 2 * MOST_WAITING - 4 * shadowing.MOST_ROWS
        assert found["failed"] + found["dropped"] == 4000


async def test_shadow_that_is_away_is_counted(tmp_path: Any) -> None:
    """A shadow without a server answers nothing, and that is all that happens."""
    async with platform() as p:
        await configured(p, f"unix:{tmp_path}/nobody.sock")
        assert (await p.call.predict()).served_variant == "fake"
        assert (await until(p, 1))["failed"] == 1
        (answer,) = (one.shadow_answer for one in journaled(p) if one.HasField("shadow_answer"))
        assert (answer.failure, answer.agrees) == (prediction_pb2.FALLBACK_REASON_UNAVAILABLE, False)


async def test_call_that_breaks_leaves_no_copy_behind(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waited behind it is asked all the same, without new copies: a full queue would take none, and stay full."""
    broken: list[Any] = []

    def records(*given: Any, **named: Any) -> list[bytes]:
        if not broken:
            broken.append(given)
            raise RuntimeError("broken")
        return shadow_records.records(*given, **named)

    monkeypatch.setattr(shadowing, "records", records)
    address = f"unix:{tmp_path}/other.sock"
    async with platform() as p, model_serving(FakeModel(), address):
        await configured(p, address)
        await connected(p.router, "other")
        with structlog.testing.capture_logs() as logged:
            await p.call("PredictBatch", batch(100))
            assert sum((await until(p, 100)).values()) == 100
        assert [one["variant"] for one in logged if one["event"] == "a shadow failed"] == ["other"]


def test_agreement_goes_by_level_or_by_the_range() -> None:
    """Two answers agree when a caller would do the same with both."""
    family = load("dispatch")
    assert agree(family, 0.5, 0.5)
    assert agree(family, 0.01, 0.02) == (family.level(0.01) == family.level(0.02) if family.levels else True)
    assert not agree(family, 0.01, 0.99)
