"""What shadows answered, in the ledger: kept as long as the decisions, counted for ever, and no decision itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from monitoring.ledger import reading
from monitoring.ledger.aggregates import window_totals
from monitoring.ledger.asides import PRUNED
from monitoring.ledger.levels import DAY_US
from monitoring.ledger.retention import Retention
from monitoring.ledger.store import Store, StoreSettings
from monitoring.ledger.tables import COUNTERS, SET_ASIDE, SHADOWS
from tests.integration.ledger_under_test import NOW_US, a_decision, an_outcome, ledger
from turnout.v1 import ledger_pb2


def a_shadow_answer(number: int, *, at: int = NOW_US, **fields: Any) -> bytes:
    """Gives a serialized record of what the shadow `dark` answered to a decision."""
    given: dict[str, Any] = {
        "decision_id": f"d-{number:06d}",
        "tenant": "north",
        "family": "dispatch",
        "assigned_at_unix_us": at,
    }
    given |= {"experiment": "dispatch", "variant": "dark", "served_variant": "a", "value": 0.75, "confidence": 0.5}
    given |= {"told_value": 0.25, "told_confidence": 0.75, "latency_us": 900, "told_latency_us": 1000}
    return ledger_pb2.JournalRecord(shadow_answer=ledger_pb2.ShadowAnswer(**(given | fields))).SerializeToString()


def summary(store: Store) -> ledger_pb2.SummarizeArmsResponse:
    """Everything so far."""
    return store._database.read_now(reading.summarize, "dispatch", 0)


def held(store: Store) -> tuple[int, int, int]:
    """Rows of shadows' answers, how many the ledger believes to have, and the bytes that it counts."""

    def read(connection: Any) -> tuple[int, int, int]:
        counters = {row.name: row.value for row in connection.execute(select(COUNTERS))}
        rows = connection.scalar(select(func.count()).select_from(SHADOWS))
        return rows, counters["shadow_answers_held"], counters["decisions_held_bytes"]

    return store._database.read_now(read)


def test_a_shadows_answers_are_no_decisions(database_url: str) -> None:
    """Who asks for all decisions gets those of the arms, and the summary counts shadows apart."""
    with ledger(database_url) as store:
        result = store.append_now([a_decision(1), a_shadow_answer(1), an_outcome(1, 1.0)], "r")
        assert (result.stored, result.shadows, result.set_aside) == (3, 1, 0)
        everything = store._database.read_now(window_totals, "dispatch", by=("arm",), populations=None)
        assert {group: totals.decisions for group, totals in everything.items()} == {("a",): 1}
        found = summary(store)
        assert [arm.arm for arm in found.arms] == ["a"]
        (shadow,) = found.shadows
        assert (shadow.answered, shadow.outcomes) == (1, 1)
        assert (shadow.mean_absolute_error, shadow.told_mean_absolute_error) == (0.25, 0.75)


def test_a_corrected_outcome_counts_instead_of_the_old_one(database_url: str) -> None:
    """In a later batch than the shadow's answer, for the answer and for what the caller was told."""
    with ledger(database_url) as store:
        store.append_now([a_decision(1), a_shadow_answer(1)], "r")
        for recorded, outcome, own, told in ((1, 1.0, 0.25, 0.75), (2, 0.0, 0.75, 0.25)):
            store.append_now([an_outcome(1, outcome, recorded=NOW_US + recorded)], "r")
            (shadow,) = summary(store).shadows
            assert (shadow.outcomes, shadow.mean_absolute_error, shadow.told_mean_absolute_error) == (1, own, told)


def test_answers_go_with_their_decisions_and_their_totals_stay(database_url: str) -> None:
    """Sent again, they are set aside and not counted a second time."""
    past = NOW_US - 50 * DAY_US
    old = [record for n in range(20) for record in (a_decision(n, at=past + n), a_shadow_answer(n, at=past + n))]
    with ledger(database_url, settings=StoreSettings(retention=Retention(raw_days=45))) as store:
        store.append_now([*old, a_decision(99)], "r")
        before = held(store)
        store.append_now([a_shadow_answer(99)], "r")
        alone = held(store)
        assert alone[:2] == (21, 21)
        assert alone[2] > before[2]
        while store.upkeep_now().more:
            pass
        assert held(store)[:2] == (1, 1)
        assert store.append_now([a_shadow_answer(3, at=past + 3)], "r").set_aside == 1
        assert store._database.read_now(lambda c: c.scalars(select(SET_ASIDE.c.reason)).all()) == [PRUNED]
        assert [one.answered for one in summary(store).shadows] == [21]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"decision_id": ""}, "decision_id"),
        ({"experiment": "a b"}, "experiment must be 1 to 63"),
        ({"variant": ""}, "variant must be 1 to 63"),
        ({"value": float("nan")}, "value is not a number"),
        ({"told_value": float("inf")}, "told_value is not a number"),
        ({"confidence": 1.5}, "confidence is not in [0, 1]"),
        ({"model_version": "v" * 2000}, "model_version must be at most"),
        ({"assigned_at_unix_us": -1}, "assigned_at_unix_us"),
    ],
)
def test_a_damaged_answer_is_set_aside_with_its_reason(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    """And counted, so that the journal's books balance; its neighbour is stored."""
    with ledger(f"sqlite:///{tmp_path}/ledger.sqlite") as store:
        result = store.append_now([a_shadow_answer(1, **fields), a_shadow_answer(2)], "r")
        assert (result.stored, result.set_aside) == (1, 1)
        (told,) = store._database.read_now(lambda c: c.scalars(select(SET_ASIDE.c.reason)).all())
        assert reason in told
