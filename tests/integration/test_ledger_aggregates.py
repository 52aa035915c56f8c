"""The aggregates say what the raw rows say: under any order, repetition, batching, correction and upkeep."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select, text

from monitoring.ledger import reading
from monitoring.ledger.aggregates import By, experiments, feature_sketches, window_series, window_totals
from monitoring.ledger.asides import ALONE, LATE, PRUNED
from monitoring.ledger.cells import OTHER, CellBounds
from monitoring.ledger.families import describe
from monitoring.ledger.levels import DAY_US, END_US, HOUR_US, MINUTE_US
from monitoring.ledger.retention import Retention
from monitoring.ledger.store import Store, StoreSettings
from monitoring.ledger.tables import CELLS, COUNTERS, DECISIONS, FEATURE_WINDOWS, OUTCOMES, SET_ASIDE, WINDOWS
from monitoring.ledger.tally import Count, Decisions, Outcomes, OutcomeSum, Sum, Tally
from services.runtime.errors import Unavailable
from tests.integration.ledger_under_test import NOW_US, SCHEMA, a_decision, an_outcome, ledger
from tests.integration.postgresql_under_test import PostgreSQL

DAY_ONE = NOW_US // DAY_US * DAY_US
INSTANTS = st.integers(0, 3 * 24 * 60).map(lambda minute: DAY_ONE - 3 * DAY_US + minute * MINUTE_US + 7)
DECIDED = st.builds(
    a_decision,
    st.integers(0, 6),
    at=INSTANTS,
    arm=st.sampled_from("ab"),
    variant=st.sampled_from(["a", "rules"]),
    tenant=st.sampled_from(["north", "south"]),
    family=st.sampled_from(["dispatch", "unknown"]),
    value=st.floats(0, 1),
    latency_us=st.integers(0, 10_000),
    fallback=st.sampled_from([0, 3, 40]),
    burn_in=st.booleans(),
    request=st.sampled_from([b"", b"1" * 16]),
)
REPORTED = st.builds(
    an_outcome,
    st.integers(0, 6),
    st.sampled_from([0.0, 1.0, 0.5, -3e40]),
    recorded=INSTANTS,
    tenant=st.sampled_from(["north", "south"]),
    cost=st.none() | st.floats(-1e9, 1e9),
)
RECORDS = st.lists(st.one_of(DECIDED, DECIDED, REPORTED), max_size=25)


def recomputed(connection: Connection, family: str, since_us: int, until_us: int) -> dict[Any, Any]:
    """Tallies made from the raw rows, by cell."""
    cells = {row[0]: tuple(row[2:]) for row in connection.execute(select(CELLS).where(CELLS.c.family == family))}
    decided: dict[Any, list[Any]] = defaultdict(list)
    reported: dict[Any, list[Any]] = defaultdict(list)
    same = (OUTCOMES.c.decision_id == DECISIONS.c.decision_id) & (OUTCOMES.c.tenant == DECISIONS.c.tenant)
    columns = (DECISIONS, OUTCOMES.c.value.label("outcome"), OUTCOMES.c.cost)
    statement = select(*columns).select_from(DECISIONS.outerjoin(OUTCOMES, same)).where(DECISIONS.c.family == family)
    for row in connection.execute(statement):
        if since_us <= row.assigned_at_us < until_us:
            decided[cells[row.cell]].append(row)
            if row.outcome is not None:
                reported[cells[row.cell]].append(row)
    found = {}
    for cell, rows in decided.items():
        tally = Tally.of_decisions(
            Decisions(
                np.array([row.value for row in rows]),
                np.array([row.confidence for row in rows]),
                np.array([row.latency_us for row in rows], float),
                np.array([min(row.fallback, 31) for row in rows]),
            ),
            1,
            describe(family).target,
        )
        outcomes = reported[cell]
        if outcomes:
            columns_of = Outcomes(
                np.ones(len(outcomes), np.int64),
                np.array([row.value for row in outcomes]),
                np.array([row.outcome for row in outcomes]),
                np.array([np.nan if row.cost is None else row.cost for row in outcomes]),
            )
            tally.add(Tally.of_outcomes(columns_of, describe(family).target))
        found[cell] = parts(tally)
    return found


def parts(tally: Tally) -> Any:
    """All of a tally but how many decisions gave way, which only the sketches care for."""
    counts = tally.counts.tolist()
    counts[Count.REPLACED] = 0
    return counts, tally.calibration.tolist(), tally.sums, tally.outcome_sums


def tallied(
    connection: Connection, family: str, since_us: int, until_us: int, only: dict[By, str] | None = None
) -> dict[Any, Any]:
    """Tallies of the aggregates, by cell; those in which nothing is left are left out."""
    found = window_totals(connection, family, only, since_us, until_us, by=get_args(By), populations=None)
    kept = {group: parts(totals.statistics.tally) for group, totals in found.items()}
    return {group: one for group, one in kept.items() if any(one[0])}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS, data=st.data())
def test_the_totals_of_any_span_are_those_of_the_raw_rows(
    database_url: str, records: list[bytes], data: st.DataObject
) -> None:
    """Every count and every sum, to the last bit, however the records came and whatever upkeep did in between."""
    repeated = records + data.draw(st.lists(st.sampled_from(records), max_size=8) if records else st.just([]))
    shuffled = data.draw(st.permutations(repeated))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(shuffled)), max_size=4)))
    since, until = sorted(data.draw(st.tuples(INSTANTS, INSTANTS)))
    since, until = since // MINUTE_US * MINUTE_US, until // MINUTE_US * MINUTE_US
    with ledger(database_url, empty=True, now_us=lambda: DAY_ONE) as store:
        for start, end in zip([0, *cuts], [*cuts, len(shuffled)], strict=True):
            store.append_now(shuffled[start:end], "router-1")
            if data.draw(st.booleans()):
                store.upkeep_now()
        for family in ("dispatch", "unknown"):
            for span in ((0, END_US), (max(since, DAY_ONE - 2 * DAY_US), max(until, DAY_ONE - 2 * DAY_US))):
                assert store._database.read_now(tallied, family, *span) == store._database.read_now(
                    recomputed, family, *span
                )


def test_totals_of_one_arm_or_tenant_are_its_part_of_all(database_url: str) -> None:
    """Names that are given leave out what is called otherwise; an empty one leaves out nothing."""
    with ledger(database_url) as store:
        store.append_now([a_decision(n, arm=f"arm{n % 2}", tenant=f"tenant{n % 3}") for n in range(60)], "r")
        read, span = store._database.read_now, (0, END_US)
        whole = read(tallied, "dispatch", *span)
        place = {name: get_args(By).index(name) for name in ("arm", "tenant")}
        assert len(whole) == 6
        wanted: list[dict[By, str]] = [{"arm": "arm1"}, {"tenant": "tenant2"}, {"arm": "arm0", "tenant": "tenant1"}]
        for only in wanted:
            part = {key: one for key, one in whole.items() if all(key[place[name]] == only[name] for name in only)}
            assert read(tallied, "dispatch", *span, only) == part
        assert read(tallied, "dispatch", *span, {"arm": "", "tenant": ""}) == whole
        assert read(tallied, "dispatch", *span, {"arm": "nobody"}) == {}


def test_sketches_are_within_their_bound_whatever_the_batches(database_url: str) -> None:
    """Over 6 000 latencies, sent in small batches over several minutes, each rank is within 1.65 % of the true one."""
    chance = np.random.default_rng(7)
    latencies = chance.lognormal(8, 0.6, 6000).astype(int)
    records = [
        a_decision(number, latency_us=int(latency), at=NOW_US - (number % 300) * 1_000_000)
        for number, latency in enumerate(latencies)
    ]
    with ledger(database_url) as store:
        for start in range(0, len(records), 300):
            store.append_now(records[start : start + 300], "router-1")
        (totals,) = store._database.read_now(window_totals, "dispatch").values()
    ordered = np.sort(latencies)
    for rank in (0.01, 0.25, 0.5, 0.75, 0.9, 0.99):
        found = totals.quantile("latency", rank)
        assert found is not None
        low, high = np.searchsorted(ordered, found, "left") / 6000, np.searchsorted(ordered, found, "right") / 6000
        assert low - 0.0165 <= rank <= high + 0.0165


def test_a_corrected_outcome_moves_all_that_it_touched(database_url: str) -> None:
    """Confusion, Brier sum, log loss, calibration and cost follow the newest report; the old one leaves nothing."""
    with ledger(database_url) as store:
        store.append_now([a_decision(1, value=0.75), an_outcome(1, 1.0, cost=5.0)], "r")
        (before,) = store._database.read_now(window_totals, "dispatch").values()
        assert (before.count(Count.TRUE_POSITIVES), before.mean(OutcomeSum.COST)) == (1, 5.0)
        assert before.sum(OutcomeSum.SQUARED_ERROR) == 0.0625
        store.append_now([an_outcome(1, 0.0, recorded=NOW_US + 1)], "r")
        (after,) = store._database.read_now(window_totals, "dispatch").values()
        assert (after.count(Count.TRUE_POSITIVES), after.count(Count.FALSE_POSITIVES)) == (0, 1)
        assert (after.outcomes, after.mean(OutcomeSum.COST), after.sum(OutcomeSum.COST)) == (1, None, 0.0)
        assert after.sum(OutcomeSum.SQUARED_ERROR) == 0.5625
        assert after.sum(OutcomeSum.LOG_LOSS) == pytest.approx(1.3862943611)
        counts, predictions, positives = after.calibration
        assert (counts[15], predictions[15], positives[15]) == (1, 0.75, 0.0)
        assert counts.sum() == 1


def test_an_outcome_of_the_wrong_kind_is_kept_but_not_counted(database_url: str) -> None:
    """A binary target's outcome is 0 or 1: anything else is told apart, until it is corrected."""
    with ledger(database_url) as store:
        store.append_now([a_decision(1), an_outcome(1, 0.5)], "r")
        (totals,) = store._database.read_now(window_totals, "dispatch").values()
        assert (totals.outcomes, totals.count(Count.UNFIT)) == (0, 1)
        store.append_now([an_outcome(1, 1.0, recorded=NOW_US + 1)], "r")
        (totals,) = store._database.read_now(window_totals, "dispatch").values()
        assert (totals.outcomes, totals.count(Count.UNFIT)) == (1, 0)


@pytest.mark.parametrize("early", [True, False])
def test_an_outcome_counts_for_30_days(database_url: str, *, early: bool) -> None:
    """On the last day it joins; a moment later it is set aside with its reason, whichever came first."""
    records = [a_decision(1), a_decision(2)]
    late = NOW_US + 30 * DAY_US
    reports = [an_outcome(1, 1.0, recorded=late), an_outcome(2, 1.0, recorded=late + 1)]
    with ledger(database_url) as store:
        for batch in (reports, records) if early else (records, reports):
            store.append_now(batch, "r")
        again = store.append_now(reports, "r")
        assert (again.stored, again.repeated) == (0, 2)
        (totals,) = store._database.read_now(window_totals, "dispatch").values()
        assert (totals.decisions, totals.outcomes) == (2, 1)
        assert store._database.read_now(lambda c: c.scalars(select(SET_ASIDE.c.reason)).all()) == [LATE]
        assert store._database.read_now(reading.summarize, "dispatch", 0).outcomes_waiting == 0


def test_burn_in_and_overrides_are_left_out_unless_asked_for(database_url: str) -> None:
    """Populations tell decisions apart that an analysis must not compare."""
    with ledger(database_url) as store:
        store.append_now([a_decision(1), a_decision(2, burn_in=True)], "r")
        (compared,) = store._database.read_now(window_totals, "dispatch").values()
        everything = store._database.read_now(window_totals, "dispatch", by=("population",), populations=None)
        assert compared.decisions == 1
        assert {group: totals.decisions for group, totals in everything.items()} == {
            ("experiment",): 1,
            ("burn_in",): 1,
        }
        assert store._database.read_now(experiments) == [("dispatch", "dispatch")]


def test_a_series_has_a_step_for_each_window(database_url: str) -> None:
    """Steps of an hour hold that hour's decisions, oldest first."""
    with ledger(database_url) as store:
        records = [a_decision(number, at=DAY_ONE + number * 40 * MINUTE_US) for number in range(6)]
        store.append_now(records, "r")
        found = store._database.read_now(window_series, "dispatch", length_us=HOUR_US, by=())
        assert [((start - DAY_ONE) // HOUR_US, one[()].decisions) for start, one in found] == [
            (0, 2),
            (1, 1),
            (2, 2),
            (3, 1),
        ]


def test_names_beyond_the_bounds_share_a_cell(database_url: str) -> None:
    """Whatever callers send, cells stay few; counts stay exact, and corrections find the cell that was used."""
    bounded = StoreSettings(bounds=CellBounds(tenants=2, names=2, cells=100))
    with ledger(database_url, settings=bounded) as store:
        store.append_now([a_decision(n, tenant=f"t{n}", arm=f"a{n}", variant=f"v{n}") for n in range(10)], "r")
        store.append_now([an_outcome(n, 1.0, tenant=f"t{n}") for n in range(10)], "r")
    with ledger(database_url, settings=bounded) as store:
        store.append_now([an_outcome(9, 0.0, tenant="t9", recorded=NOW_US + 1)], "r")
        found = store._database.read_now(window_totals, "dispatch", by=("tenant",))
        assert {group[0]: (one.decisions, one.sum(OutcomeSum.OUTCOME)) for group, one in found.items()} == {
            "t0": (1, 1.0),
            "t1": (1, 1.0),
            OTHER: (8, 7.0),
        }


def test_features_are_those_of_the_rows_before_and_after_they_are_added_up(database_url: str) -> None:
    """Null counts, moments, categories and ranks agree with the raw rows; hours and days lose nothing."""
    chance = np.random.default_rng(3)
    rows = chance.normal(10, 3, (900, len(SCHEMA))).astype(np.float32)
    rows[:, 0] = chance.integers(1, 6, 900)
    place = SCHEMA.names.index("call_type")
    rows[:, place] = chance.integers(0, 10, 900)
    rows[::9, 2] = np.nan
    records = [
        a_decision(n, row=rows[n].tolist(), at=DAY_ONE + n * 4 * MINUTE_US, variant="ab"[n % 2]) for n in range(900)
    ]
    now = DAY_ONE + 3 * DAY_US
    with ledger(database_url, now_us=lambda: now) as store:
        for start in range(0, 900, 170):
            store.append_now(records[start : start + 170], "r")
        for days in (0, 40, 200):
            now = DAY_ONE + (3 + days) * DAY_US
            steps = 0
            while store.upkeep_now().more:
                steps += 1
                assert steps < 500
            found = store._database.read_now(feature_sketches, "dispatch")
            assert set(found) == {"a", "b"}
            assert set(store._database.read_now(feature_sketches, "dispatch", "a")) == {"a"}
            for name, mine in (("a", rows[::2]), ("b", rows[1::2])):
                one = found[name]
                assert one.rows == 450
                assert one.names == SCHEMA.names
                assert one.null_rate(SCHEMA.names[2]) == np.isnan(mine[:, 2]).mean()
                assert one.distribution("call_type").tolist() == np.bincount(mine[:, place].astype(int)).tolist()
                assert one.statistics.sums[1] == pytest.approx(mine[:, 1].astype(float).sum())
                assert one.statistics.squares[1] == pytest.approx((mine[:, 1].astype(float) ** 2).sum())
                sketch = one.distribution(SCHEMA.names[1])
                assert sketch.n == 450
                assert sketch.get_rank(10.0) == pytest.approx((mine[:, 1] <= 10.0).mean(), abs=0.0165)
            totals = store._database.read_now(window_totals, "dispatch", by=())
            assert totals[()].decisions == 900
        left = store._database.read_now(
            lambda c: set(c.scalars(select(FEATURE_WINDOWS.c.length_us))) | set(c.scalars(select(WINDOWS.c.length_us)))
        )
        assert left == {DAY_US}


def test_features_of_another_schema_are_left_out(database_url: str) -> None:
    """A row that does not fit the family's schema of today counts as a decision only."""
    with ledger(database_url) as store:
        store.append_now([a_decision(1), a_decision(2, family="unknown")], "r")
        assert set(store._database.read_now(feature_sketches, "unknown")) == set()
        (totals,) = store._database.read_now(window_totals, "unknown").values()
        assert totals.decisions == 1
        assert totals.mean(Sum.LATENCY) == 1000.0


def counters(store: Store) -> dict[str, int]:
    return store._database.read_now(lambda c: {row.name: row.value for row in c.execute(select(COUNTERS))})


def test_old_decisions_go_and_the_totals_stay(database_url: str) -> None:
    """After their time raw rows are removed in steps; totals keep them; sent again they are set aside, not counted."""
    now = NOW_US
    old = [a_decision(n, at=NOW_US - 50 * DAY_US + n) for n in range(2500)]
    kept = StoreSettings(retention=Retention(raw_days=45))
    with ledger(database_url, now_us=lambda: now, settings=kept) as store:
        store.append_now([*old, *(an_outcome(n, 1.0, recorded=NOW_US - 49 * DAY_US) for n in range(2500))], "r")
        store.append_now([a_decision(9000)], "r")
        removed = []
        while (step := store.upkeep_now()).more:
            removed.append(step.pruned)
        assert [n for n in removed if n] == [1000, 1000, 500]
        held = counters(store)
        assert (held["decisions_held"], held["decisions_pruned"], held["decisions_pruned_waiting"]) == (1, 2500, 0)
        assert store._database.read_now(lambda c: c.scalar(text("SELECT count(*) FROM outcomes"))) == 0
        assert store.append_now(old[:3], "r").set_aside == 3
        assert store._database.read_now(lambda c: c.scalars(select(SET_ASIDE.c.reason)).all()) == [PRUNED] * 3
        (totals,) = store._database.read_now(window_totals, "dispatch").values()
        assert (totals.decisions, totals.outcomes) == (2501, 2500)


def test_an_outcome_that_no_decision_follows_is_set_aside_after_60_days(database_url: str) -> None:
    """What waits is bounded in time; a younger one goes on waiting."""
    with ledger(database_url) as store:
        old, young = NOW_US - 60 * DAY_US - 1, NOW_US - 60 * DAY_US
        store.append_now([an_outcome(1, 1.0, recorded=old), an_outcome(2, 1.0, recorded=young)], "r")
        assert [store.upkeep_now().expired for _ in range(2)] == [1, 0]
        assert store._database.read_now(lambda c: c.scalars(select(SET_ASIDE.c.reason)).all()) == [ALONE]
        assert store._database.read_now(reading.summarize, "dispatch", 0).outcomes_waiting == 1
        store.append_now([a_decision(2, at=young)], "r")
        (totals,) = store._database.read_now(window_totals, "dispatch").values()
        assert totals.outcomes == 1


@pytest.mark.parametrize("bound", [{"max_decisions": 100}, {"max_bytes": 60_000}])
def test_a_bound_removes_the_oldest_even_those_that_wait_and_counts_them(
    database_url: str, bound: dict[str, int]
) -> None:
    """The bound holds after upkeep; decisions without an outcome that could still come are counted."""
    records = [a_decision(n, at=NOW_US - 10 * DAY_US + n) for n in range(300)]
    with ledger(database_url, settings=StoreSettings(retention=Retention(**bound))) as store:
        store.append_now([*records, *(an_outcome(n, 1.0) for n in range(0, 300, 2))], "r")
        while store.upkeep_now().more:
            pass
        held = counters(store)
        assert held["decisions_held"] <= 100 or held["decisions_held_bytes"] <= 60_000
        gone = held["decisions_pruned"]
        assert gone == 300 - held["decisions_held"] > 0
        assert held["decisions_pruned_waiting"] == gone // 2
        left = store._database.read_now(lambda c: c.scalar(select(DECISIONS.c.decision_id).order_by("decision_id")))
        assert left == f"d-{gone:06d}"


def test_a_ledger_from_before_aggregates_is_added_up_when_it_opens(database_url: str) -> None:
    """The totals of old rows are those that they would have had; opening once more changes nothing."""
    records = [a_decision(n, at=NOW_US - n * HOUR_US, arm="ab"[n % 2]) for n in range(50)]
    records += [an_outcome(n, float(n % 2)) for n in range(0, 50, 3)]
    with ledger(database_url) as store:
        store.append_now(records, "r")
        expected = store._database.read_now(tallied, "dispatch", 0, END_US)

        def as_before(connection: Connection) -> None:
            connection.execute(text("UPDATE decisions SET cell = NULL"))
            for table in ("cells", "windows", "feature_sets", "feature_windows"):
                connection.execute(text(f"DELETE FROM {table}"))
            connection.execute(text("DELETE FROM counters WHERE name NOT IN ('schema_version', 'outcomes_waiting')"))

        store._database.write_now(as_before)
    for _ in range(2):
        with ledger(database_url) as store:
            assert store._database.read_now(tallied, "dispatch", 0, END_US) == expected
            assert counters(store)["decisions_held"] == 50


def test_a_batch_that_fails_leaves_the_aggregates_as_they_were(database_url: str) -> None:
    """What was refused is not in memory either: the next batch counts from what is stored."""
    with ledger(database_url) as store:
        store.append_now([a_decision(1)], "r")
        applied = store._memory.aggregates.apply if store._memory else None
        assert applied is not None

        def failing(connection: Connection, *rest: Any) -> None:
            applied(connection, *rest)
            connection.execute(text("SELECT * FROM no_such_table"))

        store._memory.aggregates.apply = failing  # type: ignore[union-attr,method-assign]
        with pytest.raises(Unavailable):
            store.append_now([a_decision(2), an_outcome(1, 1.0)], "r")
        assert store.append_now([a_decision(2), an_outcome(1, 1.0)], "r").stored == 2
        assert store._database.read_now(tallied, "dispatch", 0, END_US) == store._database.read_now(
            recomputed, "dispatch", 0, END_US
        )


def test_postgresql_that_stops_in_the_middle_loses_nothing(postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    """A batch during the outage is refused; sent again it is stored once, and the totals are those of the rows."""
    with ledger(postgresql_url) as store:
        store.append_now([a_decision(1), an_outcome(1, 1.0)], "r")
        postgresql_server.stop()
        try:
            for _ in range(2):
                with pytest.raises(Unavailable):
                    store.append_now([a_decision(2)], "r")
            with pytest.raises(Unavailable):
                store.upkeep_now()
        finally:
            postgresql_server.start()
        assert store.append_now([a_decision(2), a_decision(1)], "r").decisions == 1
        found = store._database.read_now(tallied, "dispatch", 0, END_US)
        assert found == store._database.read_now(recomputed, "dispatch", 0, END_US)


def test_a_hub_that_took_over_is_not_overwritten_from_memory(
    postgresql_server: PostgreSQL, postgresql_url: str
) -> None:
    """After a lost session the first hub reads anew what the second one stored."""
    with ledger(postgresql_url) as first:
        first.append_now([a_decision(1)], "r")
        pid = first._database.write_now(lambda c: c.scalar(text("SELECT pg_backend_pid()")))
        postgresql_server.sql(f"SELECT pg_terminate_backend({pid})")
        with ledger(postgresql_url) as second:
            second.append_now([a_decision(2, arm="b"), a_decision(3)], "r")
        first.append_now([a_decision(4, arm="c")], "r")
        found = first._database.read_now(tallied, "dispatch", 0, END_US)
        assert found == first._database.read_now(recomputed, "dispatch", 0, END_US)
        assert len(found) == 3
