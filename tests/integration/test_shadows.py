"""Shadows get copies after the caller was answered; their answers are compared, and they can cost nobody anything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bentos.family import load
from router import shadowing
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
from turnout.v1 import prediction_pb2


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


def test_agreement_goes_by_level_or_by_the_range() -> None:
    """Two answers agree when a caller would do the same with both."""
    family = load("dispatch")
    assert agree(family, 0.5, 0.5)
    assert not agree(family, 0.5, float("nan"))
    assert not agree(family, 0.5, 1.5)
    assert agree(family, 0.01, 0.02) == (family.level(0.01) == family.level(0.02) if family.levels else True)
    assert not agree(family, 0.01, 0.99)
