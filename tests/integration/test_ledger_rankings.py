"""Rankings in the ledger: decisions of one unit are candidates, outcomes their relevance, NDCG by variant, window."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score
from sqlalchemy import Connection, delete, func, select

from bentos.family import Family, Target, TargetKind
from monitoring.cycle import answering
from monitoring.ledger import rankings, reading
from monitoring.ledger.aggregates import Totals, window_totals
from monitoring.ledger.families import UNKNOWN, Described
from monitoring.ledger.levels import DAY_US, HOUR_US, MINUTE_US
from monitoring.ledger.retention import Retention
from monitoring.ledger.store import Store, StoreSettings, open_store
from monitoring.ledger.tables import METADATA, RANKINGS
from monitoring.ledger.tally import Count, OutcomeSum, TargetRange
from services.runtime.database import Database, open_database
from tests.integration.cycle_under_test import TOY
from turnout.v1 import ledger_pb2, monitoring_pb2, prediction_pb2

NOW_US = 1_700_000_000_000_000 // DAY_US * DAY_US + 20 * HOUR_US
PLACES = 3
RANKS: Family = replace(
    TOY,
    name="template",
    target=Target(name="relevance", kind=TargetKind.NUMBER, unit="1", low=0, high=10, description="how useful it was"),
    ranking_places=PLACES,
)


def describe(name: str) -> Described:
    ranks = Described(TargetRange(binary=False, low=0.0, high=10.0), RANKS.schema, PLACES)
    return ranks if name == RANKS.name else UNKNOWN


@contextlib.contextmanager
def a_ledger(
    url: str, *, now_us: int = NOW_US, keep: bool = False, raw_days: int = 90
) -> Iterator[tuple[Database, Store]]:
    with open_database(url) as database:

        def wipe(connection: Connection) -> None:
            for table in METADATA.sorted_tables:
                connection.execute(delete(table))

        if not keep:
            database.write_now(wipe)
        chosen = StoreSettings(retention=Retention(raw_days=raw_days))
        with open_store(database, now_us=lambda: now_us, settings=chosen, describe_family=describe) as store:
            yield database, store


def candidate(
    unit: str,
    number: int,
    value: float,
    *,
    variant: str = "ranker",
    at: int = NOW_US,
    tenant: str = "north",
    name: str = "",
) -> bytes:
    name = name or f"{unit}-{number}"
    decision = ledger_pb2.Decision(
        decision_id=name,
        tenant=tenant,
        family=RANKS.name,
        unit_id=unit,
        assigned_at_unix_us=at,
        prediction=prediction_pb2.PredictResponse(
            decision_id=name,
            value=value,
            confidence=0.5,
            served_variant=variant,
            assignment=prediction_pb2.Assignment(arm="ranker", propensity=1.0),
        ),
    )
    return ledger_pb2.JournalRecord(decision=decision).SerializeToString()


def relevance(unit: str, number: int, value: float, *, recorded: int = NOW_US, tenant: str = "north") -> bytes:
    outcome = ledger_pb2.Outcome(
        decision_id=f"{unit}-{number}", tenant=tenant, value=value, recorded_at_unix_us=recorded
    )
    return ledger_pb2.JournalRecord(outcome=outcome).SerializeToString()


def a_ranking(unit: str, values: Sequence[float], gains: Sequence[float], **where: Any) -> list[bytes]:
    decided = [candidate(unit, number, value, **where) for number, value in enumerate(values)]
    return decided + [relevance(unit, number, gain) for number, gain in enumerate(gains)]


def totals(database: Database, since_us: int = 0) -> dict[tuple[str, ...], Totals]:
    return database.read_now(window_totals, RANKS.name, None, since_us, by=("variant",), populations=None)


def the_one(database: Database) -> Totals:
    (only,) = totals(database).values()
    return only


def test_ndcg_of_a_variant_is_the_mean_over_its_rankings(database_url: str) -> None:
    """As scikit-learn says, over the first three places; ties share what their places are worth."""
    cases = [([0.9, 0.5, 0.1, 0.7], [0, 3, 1, 2]), ([0.1, 0.9], [5, 0]), ([0.4, 0.4, 0.2], [0, 1, 0])]
    with a_ledger(database_url) as (database, store):
        for place, (values, gains) in enumerate(cases):
            store.append_now(a_ranking(f"task-{place}", values, gains), "r")
        found = the_one(database)
        quality = answering.variant_quality(
            RANKS, "ranker", "ranker", found, [], [], since_us=NOW_US - DAY_US, until_us=NOW_US
        )
    expected = [ndcg_score([gains], [values], k=PLACES) for values, gains in cases]
    assert found.count(Count.RANKINGS) == 3
    assert found.mean(OutcomeSum.NDCG) == pytest.approx(sum(expected) / 3)
    measures = {one.name: one for one in quality.measures}
    assert measures["ndcg_at_3"].value == pytest.approx(sum(expected) / 3)
    assert measures["ndcg_at_3"].low < measures["ndcg_at_3"].value < measures["ndcg_at_3"].high
    assert measures["rankings"].value == 3
    assert quality.level == monitoring_pb2.QUALITY_LEVEL_UNSPECIFIED


def test_the_level_of_a_variant_that_ranks_is_that_of_its_rankings(database_url: str) -> None:
    """Forty perfect rankings are excellent, whatever the errors of the scores as numbers."""
    with a_ledger(database_url) as (database, store):
        for number in range(40):
            store.append_now(a_ranking(f"task-{number}", [0.3, 0.2, 0.1], [9, 5, 0]), "r")
        quality = answering.variant_quality(
            RANKS, "ranker", "ranker", the_one(database), [], [], since_us=NOW_US - DAY_US, until_us=NOW_US
        )
    assert quality.level == monitoring_pb2.QUALITY_LEVEL_EXCELLENT


def test_a_ranking_counts_when_its_last_relevance_has_come(database_url: str) -> None:
    """Not before; a corrected relevance moves it, and one under 0 takes it out again."""
    *rest, last = a_ranking("task", [0.9, 0.5, 0.1], [0, 2, 1])
    with a_ledger(database_url) as (database, store):
        store.append_now(rest, "r")
        assert the_one(database).count(Count.RANKINGS) == 0
        store.append_now([last], "r")
        first = the_one(database).mean(OutcomeSum.NDCG)
        assert first == pytest.approx(ndcg_score([[0, 2, 1]], [[0.9, 0.5, 0.1]], k=PLACES))
        store.append_now([relevance("task", 0, 4, recorded=NOW_US + 1)], "r")
        assert the_one(database).mean(OutcomeSum.NDCG) == 1.0
        store.append_now([relevance("task", 0, -1, recorded=NOW_US + 2)], "r")
        assert the_one(database).count(Count.RANKINGS) == 0
        assert the_one(database).sum(OutcomeSum.NDCG) == 0.0


def test_what_is_no_ranking_does_not_count(database_url: str) -> None:
    """One candidate; candidates of several variants; nothing relevant; too many; no unit."""
    many = rankings.MOST_CANDIDATES + 1
    with a_ledger(database_url) as (database, store):
        store.append_now(a_ranking("alone", [0.5], [1]), "r")
        store.append_now(a_ranking("nothing", [0.5, 0.4], [0, 0]), "r")
        split = [candidate("split", 0, 0.5), candidate("split", 1, 0.4, variant="rules")]
        store.append_now([*split, relevance("split", 0, 1), relevance("split", 1, 0)], "r")
        store.append_now(a_ranking("", [0.5, 0.4], [1, 0]), "r")
        store.append_now(a_ranking("many", [number / many for number in range(many)], [1.0] * many), "r")
        assert [one.count(Count.RANKINGS) for one in totals(database).values()] == [0, 0]
        assert sum(one.outcomes for one in totals(database).values()) == many + 1 + 2 + 2 + 2
        # A unit of another tenant is another ranking.
        theirs = [candidate("alone", 1, 0.6, tenant="south"), relevance("alone", 1, 1, tenant="south")]
        store.append_now(theirs, "r")
        assert sum(one.count(Count.RANKINGS) for one in totals(database).values()) == 0


def test_a_decision_that_gives_way_leaves_its_ranking(database_url: str) -> None:
    """An earlier record of the same id was of another unit: what is left is measured anew."""
    with a_ledger(database_url) as (database, store):
        store.append_now(a_ranking("u", [0.9, 0.5, 0.1], [0, 1, 0]), "r")
        assert the_one(database).mean(OutcomeSum.NDCG) == pytest.approx(ndcg_score([[0, 1, 0]], [[0.9, 0.5, 0.1]]))
        store.append_now([candidate("v", 0, 0.9, name="u-0", at=NOW_US - 1)], "r")
        assert (the_one(database).count(Count.RANKINGS), the_one(database).mean(OutcomeSum.NDCG)) == (1, 1.0)


def test_rankings_are_counted_by_window(database_url: str) -> None:
    """In the minute of the first candidate, so that any span adds up its own."""
    with a_ledger(database_url) as (database, store):
        early = NOW_US - 10 * MINUTE_US
        store.append_now(a_ranking("early", [0.2, 0.1], [0, 1], at=early), "r")
        store.append_now(a_ranking("late", [0.2, 0.1], [1, 0], at=NOW_US), "r")
        (recent,) = totals(database, NOW_US - 5 * MINUTE_US).values()
        assert (recent.count(Count.RANKINGS), recent.mean(OutcomeSum.NDCG)) == (1, 1.0)
        assert the_one(database).count(Count.RANKINGS) == 2


def test_rankings_go_with_the_decisions_that_retention_removes(database_url: str) -> None:
    """What was counted stays counted; the candidates are gone with the newest of them."""
    with a_ledger(database_url) as (database, store):
        store.append_now(a_ranking("old", [0.2, 0.1], [1, 0]), "r")
        before = the_one(database).mean(OutcomeSum.NDCG)
    with a_ledger(database_url, now_us=NOW_US + 40 * DAY_US, keep=True, raw_days=30) as (database, store):
        while store.upkeep_now().more:
            pass
        assert database.read_now(lambda c: c.scalar(select(func.count()).select_from(RANKINGS))) == 0
        assert the_one(database).mean(OutcomeSum.NDCG) == before


UNITS = st.sampled_from(["u", "v"])
NUMBERS = st.integers(0, 3)
NAMES = NUMBERS.map(lambda number: f"n-{number}")
TENANTS = st.sampled_from(["north", "south"])
RECORDS = st.lists(
    st.one_of(
        st.builds(
            candidate,
            UNITS,
            NUMBERS,
            st.sampled_from([0.1, 0.5, 0.9]),
            variant=st.sampled_from(["ranker", "ranker", "rules"]),
            at=st.integers(NOW_US - MINUTE_US, NOW_US),
            tenant=TENANTS,
            # A decision that gives way to an earlier record of its id may have been of another unit.
            name=NAMES,
        ),
        st.builds(
            relevance,
            st.just("n"),
            NUMBERS,
            st.sampled_from([0.0, 1.0, 2.5, -1.0]),
            recorded=st.integers(NOW_US, NOW_US + 3),
            tenant=TENANTS,
        ),
    ),
    max_size=40,
)


def counted(database: Database) -> dict[Any, Any]:
    """What the windows say of rankings, exactly; cells in which nothing is counted are left out."""
    found = database.read_now(window_totals, RANKS.name, by=("variant", "tenant"), populations=None)
    parts = {
        group: (one.count(Count.RANKINGS), *one.statistics.tally.outcome_sums[OutcomeSum.NDCG :])
        for group, one in found.items()
    }
    return {group: part for group, part in parts.items() if any(part)}


def plainly(store: Store) -> dict[Any, tuple[int, float]]:
    """The same from the entries one by one."""
    listed = asyncio.run(_entries(store))
    groups: dict[Any, list[Any]] = defaultdict(list)
    for entry in listed:
        groups[entry.decision.tenant, entry.decision.unit_id].append(entry)
    found: dict[Any, tuple[int, float]] = {}
    for (tenant, _), entries in groups.items():
        variants = {one.decision.prediction.served_variant for one in entries}
        gains = [one.outcome.value for one in entries if one.HasField("outcome") and one.outcome.value >= 0]
        if len(entries) < 2 or len(variants) > 1 or len(gains) < len(entries) or not any(gains):
            continue
        value = ndcg_score([gains], [[one.decision.prediction.value for one in entries]], k=PLACES)
        number, total = found.get((*variants, tenant), (0, 0.0))
        found[*variants, tenant] = (number + 1, total + value)
    return found


async def _entries(store: Store) -> list[ledger_pb2.LedgerEntry]:
    page, _ = await store.read(
        reading.list_entries, family=RANKS.name, decision_id="", since_us=0, after=None, count=500
    )
    return page


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS, data=st.data())
def test_order_repetition_and_batching_leave_no_trace_in_rankings(
    database_url: str, records: list[bytes], data: st.DataObject
) -> None:
    """One batch, or shuffled, repeated and in pieces: the same sums to the last bit, and those of a plain count."""
    with a_ledger(database_url) as (database, store):
        store.append_now(records, "r")
        once = counted(database)
        plain = plainly(store)
        assert {group: part[0] for group, part in once.items()} == {group: part[0] for group, part in plain.items()}
        found = database.read_now(window_totals, RANKS.name, by=("variant", "tenant"), populations=None)
        for group, (_, total) in plain.items():
            assert found[group].sum(OutcomeSum.NDCG) == pytest.approx(total)
    repeated = records + data.draw(st.lists(st.sampled_from(records), max_size=5) if records else st.just([]))
    shuffled = data.draw(st.permutations(repeated))
    cut = data.draw(st.integers(0, len(shuffled)))
    with a_ledger(database_url) as (database, store):
        store.append_now(shuffled[:cut], "r")
        store.append_now(shuffled[cut:], "r")
        assert counted(database) == once
