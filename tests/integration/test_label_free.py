"""The estimate without labels, as an operator gets it: each midnight, before the outcomes of the day have come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from monitoring.cycle.calls import CycleCalls
from monitoring.cycle.routers import RouterBook
from monitoring.ledger.aggregates import window_totals
from monitoring.ledger.levels import DAY_US
from tests.integration.cycle_under_test import Stage, a_stage
from turnout.v1 import ledger_pb2, monitoring_pb2

A_DAY = 500


class Operator:
    """Somebody who waits as long as it takes."""

    tenant = "operators"
    peer = "here"

    def metadata(self) -> dict[str, str]:
        return {}

    def time_left(self) -> float | None:
        return None


class Night(NamedTuple):
    """What was said at midnight, and how many of the day's labels then were right."""

    quality: monitoring_pb2.VariantQuality
    right: float

    @property
    def estimate(self) -> monitoring_pb2.PerformanceEstimate:
        return self.quality.estimate

    def measure(self, name: str) -> monitoring_pb2.Measure:
        return next(one for one in self.estimate.measures if one.name == name)


async def nights(stage: Stage, count: int, late: list[bytes]) -> AsyncIterator[Night]:
    """Lets days pass of which the outcomes come a day late; `late` are those that are still to come."""
    calls = CycleCalls(stage.cycle, RouterBook(), now_us=stage.clock)
    for _ in range(count):
        stage.clock.forward(DAY_US // 1_000_000)
        records = stage.traffic.records(A_DAY)
        await stage.store.append(late, "r1")
        await stage.store.append(records[:A_DAY], "r1")
        late[:] = records[A_DAY:]
        await stage.cycle.once()
        asked = monitoring_pb2.ValidationRequest(family="toy", window_seconds=86_400)
        (quality,) = (await calls.validation(asked, Operator())).variants
        yield Night(quality, right(records))


def right(records: list[bytes]) -> float:
    """The accuracy of a day, from its records alone."""
    parsed = [ledger_pb2.JournalRecord.FromString(one) for one in records]
    pairs = zip(parsed[:A_DAY], parsed[A_DAY:], strict=True)
    hits = [(d.decision.prediction.value >= 0.5) == (o.outcome.value == 1.0) for d, o in pairs]
    return sum(hits) / len(hits)


async def test_what_is_estimated_before_the_labels_is_what_they_then_show(database_url: str) -> None:
    """None until 500 labels are there; then one with an interval each night, and the intervals hold the truth."""
    async with a_stage(database_url) as stage:
        found = [night async for night in nights(stage, 10, [])]
    first, rest = found[0], found[2:]
    assert not first.estimate.valid
    assert "of the 500 labelled decisions that are needed" in first.estimate.reason
    assert {night.quality.unlabelled for night in found} == {A_DAY}
    assert [night.estimate.reason for night in rest if not night.estimate.valid] == []
    for night in rest:
        assert night.estimate.decisions == A_DAY
        assert night.measure("accuracy").low < night.measure("accuracy").value < night.measure("accuracy").high
    distances = [abs(night.measure("accuracy").value - night.right) for night in rest]
    assert sum(distances) / len(distances) < 0.03
    held = [night.measure("accuracy").low <= night.right <= night.measure("accuracy").high for night in rest]
    assert sum(held) >= len(held) - 1


async def test_an_estimate_ends_when_the_concept_changes(database_url: str) -> None:
    """The first night cannot know; from the first labels on there is a reason instead of a number."""
    async with a_stage(database_url) as stage:
        late: list[bytes] = []
        before = [night async for night in nights(stage, 6, late)]
        stage.traffic.turned = True
        silent, *told = [night async for night in nights(stage, 4, late)]
    assert before[-1].estimate.valid
    assert silent.estimate.valid
    assert silent.right < silent.measure("accuracy").low - 0.2
    for night in told:
        assert not night.estimate.valid
        assert "concept drift" in night.estimate.reason
        assert not night.estimate.measures


async def test_the_estimate_is_of_exactly_the_decisions_without_a_label(database_url: str) -> None:
    """Of 2 000 decisions all but 120 are labelled: the estimate rests on those 120, bin by bin."""
    async with a_stage(database_url) as stage:
        stage.clock.forward(3600)
        records = stage.traffic.records(2000)
        await stage.store.append(records[:2000] + records[2000 : 2000 + 1880], "r1")
        calls = CycleCalls(stage.cycle, RouterBook(), now_us=stage.clock)
        asked = monitoring_pb2.ValidationRequest(family="toy", window_seconds=86_400)
        (quality,) = (await calls.validation(asked, Operator())).variants
        (totals,) = (await stage.database.read(window_totals, "toy")).values()
    values = [ledger_pb2.JournalRecord.FromString(one).decision.prediction.value for one in records[1880:2000]]
    counts = [0] * 20
    for value in values:
        counts[min(int(value * 20), 19)] += 1
    decided, predicted = totals.decided
    known, known_predicted, _ = totals.calibration
    assert (decided - known).tolist() == counts
    assert (predicted - known_predicted).sum() == pytest.approx(sum(values), abs=1e-4)
    assert quality.estimate.decisions == quality.unlabelled == 120
