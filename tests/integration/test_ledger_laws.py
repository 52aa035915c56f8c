"""The ledger's promise: each record counts once, whatever the order, the batching, the repetitions and the restarts."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from monitoring.ledger import reading
from monitoring.ledger.aggregates import By, window_totals
from monitoring.ledger.asides import CONFLICT
from monitoring.ledger.cells import SHADOWS as POPULATIONS
from monitoring.ledger.store import Store, StoreSettings
from monitoring.ledger.tables import COUNTERS, DECISIONS, OUTCOMES, SET_ASIDE, SHADOWS, SNAPSHOTS
from monitoring.ledger.tally import Count
from services.runtime.database.sqlite import run_outside_transaction
from services.runtime.errors import Unavailable
from tests.integration.ledger_under_test import ledger
from turnout.v1 import ledger_pb2, prediction_pb2

TENANTS = st.sampled_from(["north", "south"])
IDS = st.sampled_from(["d1", "d2", "d3"])
FAMILIES = ("dispatch", "delivery")
FALLBACKS = (
    prediction_pb2.FALLBACK_REASON_UNSPECIFIED,
    prediction_pb2.FALLBACK_REASON_UNAVAILABLE,
    prediction_pb2.FALLBACK_REASON_TIMEOUT,
)


@st.composite
def decisions(draw: st.DrawFn) -> bytes:
    decision_id = draw(IDS)
    decision = ledger_pb2.Decision(
        decision_id=decision_id,
        tenant=draw(TENANTS),
        family=draw(st.sampled_from(FAMILIES)),
        assigned_at_unix_us=draw(st.integers(0, 3)),
        latency_us=draw(st.integers(0, 5000)),
        request_digest=draw(st.sampled_from([b"", b"1" * 16, b"2" * 16])),
        prediction=prediction_pb2.PredictResponse(
            decision_id=decision_id,
            value=draw(st.floats(-1, 1)),
            confidence=0.5,
            served_variant="rules",
            fallback=draw(st.sampled_from(FALLBACKS)),
            assignment=prediction_pb2.Assignment(arm=draw(st.sampled_from(["a", "b"])), propensity=0.5),
        ),
    )
    return ledger_pb2.JournalRecord(decision=decision).SerializeToString()


@st.composite
def outcomes(draw: st.DrawFn) -> bytes:
    outcome = ledger_pb2.Outcome(
        decision_id=draw(IDS),
        tenant=draw(TENANTS),
        value=draw(st.floats(allow_nan=False, allow_infinity=False)),
        occurred_at_unix_us=draw(st.integers(0, 1)),
        recorded_at_unix_us=draw(st.integers(0, 2)),
    )
    return ledger_pb2.JournalRecord(outcome=outcome).SerializeToString()


@st.composite
def snapshots(draw: st.DrawFn) -> bytes:
    text = draw(st.sampled_from(['{"a":1}', '{"b":2}']))
    snapshot = ledger_pb2.ExperimentSnapshot(
        family="dispatch",
        revision=1,
        digest=int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"),
        canonical_json=text,
        applied_at_unix_us=draw(st.integers(0, 2)),
        router=draw(st.sampled_from(["r1", "r2"])),
    )
    return ledger_pb2.JournalRecord(snapshot=snapshot).SerializeToString()


@st.composite
def shadow_answers(draw: st.DrawFn) -> bytes:
    failed = draw(st.booleans())
    answer = ledger_pb2.ShadowAnswer(
        decision_id=draw(IDS),
        tenant=draw(TENANTS),
        family=draw(st.sampled_from(FAMILIES)),
        experiment="e",
        variant=draw(st.sampled_from(["x", "y"])),
        assigned_at_unix_us=draw(st.integers(0, 3)),
        failure=prediction_pb2.FALLBACK_REASON_TIMEOUT if failed else prediction_pb2.FALLBACK_REASON_UNSPECIFIED,
        value=0.0 if failed else draw(st.floats(-1, 1)),
        agrees=not failed and draw(st.booleans()),
        latency_us=draw(st.integers(0, 5000)),
        told_value=draw(st.floats(-1, 1)),
        served_variant=draw(st.sampled_from(["rules", "z"])),
    )
    return ledger_pb2.JournalRecord(shadow_answer=answer).SerializeToString()


DAMAGED = st.sampled_from([b"", b"\xff", b"\x0a\x00"])
RECORDS = st.lists(st.one_of(decisions(), decisions(), outcomes(), snapshots(), shadow_answers(), DAMAGED), max_size=25)


def an_open_store(url: str, *, max_set_aside: int = 10_000, empty: bool = True) -> Any:
    """Opens a ledger, emptied first."""
    return ledger(url, now_us=lambda: 1, settings=StoreSettings(max_set_aside=max_set_aside), empty=empty)


def totals(connection: Connection, family: str) -> dict[tuple[str, ...], Any]:
    """The exact part of a family's totals: without what the sketches know, and without cells that are empty again."""
    found = window_totals(connection, family, by=get_args(By), populations=None)
    found |= window_totals(connection, family, by=get_args(By), populations=POPULATIONS)
    exact = {}
    for group, one in found.items():
        statistics = one.statistics.tally
        counts = statistics.counts.tolist()
        counts[Count.REPLACED] = 0
        parts = (counts, statistics.calibration.tolist(), statistics.sums, statistics.outcome_sums)
        if any(counts):
            exact[group] = parts
    return exact


def contents(store: Store) -> dict[str, Any]:
    """All that the ledger holds, but for when and by whom a record was set aside, and its totals and summaries.

    The numbers of cells depend on what came first, so they are left out; percentiles may know decisions that gave way.
    """

    def question(connection: Connection) -> dict[str, Any]:
        tables: dict[str, Any] = {
            table.name: sorted(map(tuple, connection.execute(select(table)))) for table in (SNAPSHOTS, COUNTERS)
        }
        copied = connection.execute(select(*(one for one in SHADOWS.c if not one.name.endswith("cell"))))
        tables[SHADOWS.name] = sorted(map(tuple, copied))
        decided = connection.execute(select(*(column for column in DECISIONS.c if column.name != "cell")))
        tables[DECISIONS.name] = sorted(map(tuple, decided))
        reported = connection.execute(select(OUTCOMES).order_by(OUTCOMES.c.tenant, OUTCOMES.c.decision_id))
        tables[OUTCOMES.name] = [tuple(row) for row in reported]
        aside = connection.execute(select(SET_ASIDE.c.fingerprint, SET_ASIDE.c.reason))
        tables[SET_ASIDE.name] = sorted(map(tuple, aside))
        tables["totals"] = {family: totals(connection, family) for family in FAMILIES}
        for family in FAMILIES:
            tables[family] = summary = reading.summarize(connection, family, 0)
            for one in (*summary.arms, *summary.shadows):
                one.ClearField("p50_ms")
                one.ClearField("p99_ms")
        return tables

    return asyncio.run(store.read(question))


def send(store: Store, records: Sequence[bytes]) -> int:
    """Appends one batch and checks that each record is accounted for; gives how many were new."""
    result = store.append_now(records, "router-1")
    assert result.stored + result.repeated + result.set_aside == len(records)
    return result.stored + result.set_aside


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS, data=st.data())
def test_order_repetition_batching_and_restarts_change_nothing(
    database_url: str, records: list[bytes], data: st.DataObject
) -> None:
    """Sending the records in one batch, or shuffled, repeated, in pieces and across restarts, gives the same ledger."""
    with an_open_store(database_url) as store:
        new = send(store, records)
        once = contents(store)
        assert send(store, records) == 0
        assert contents(store) == once
    repeated = records + data.draw(st.lists(st.sampled_from(records), max_size=8) if records else st.just([]))
    shuffled = data.draw(st.permutations(repeated))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(shuffled)), max_size=4)))
    counted = 0
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(shuffled)], strict=True)):
        with an_open_store(database_url, empty=number == 0) as store:
            counted += send(store, shuffled[start:end])
    with an_open_store(database_url, empty=False) as store:
        assert contents(store) == once
    rows = sum(len(once[table.name]) for table in (DECISIONS, OUTCOMES, SNAPSHOTS, SHADOWS, SET_ASIDE))
    assert new == counted == rows


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS)
def test_the_summary_agrees_with_a_plain_count(database_url: str, records: list[bytes]) -> None:
    """Counts, joins and percentiles are those that one finds by going through the entries one by one."""
    with an_open_store(database_url) as store:
        send(store, records)
        for family in FAMILIES:
            summary = asyncio.run(store.read(reading.summarize, family, 0))
            entries, _ = asyncio.run(
                store.read(reading.list_entries, family=family, decision_id="", since_us=0, after=None, count=500)
            )
            assert summary.decisions == len(entries)
            assert [arm.arm for arm in summary.arms] == sorted({e.decision.prediction.assignment.arm for e in entries})
            for arm in summary.arms:
                mine = [entry for entry in entries if entry.decision.prediction.assignment.arm == arm.arm]
                latencies = sorted(entry.decision.latency_us for entry in mine)
                assert arm.assigned == len(mine) == arm.served + sum(one.count for one in arm.fallbacks)
                assert arm.served == sum(entry.decision.prediction.fallback == 0 for entry in mine)
                usable = [
                    entry.outcome.value
                    for entry in mine
                    if entry.HasField("outcome") and (family == "delivery" or entry.outcome.value in {0.0, 1.0})
                ]
                assert arm.outcomes == len(usable)
                if usable:
                    exact = sum(map(Fraction, usable)) / len(usable)
                    assert arm.outcome_mean == float(exact)
                assert arm.HasField("outcome_mean") == (arm.outcomes > 0)
                assert arm.p50_ms == latencies[(len(mine) + 1) // 2 - 1] / 1000
                assert arm.p99_ms == latencies[-1] / 1000  # of fewer than 100


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(st.one_of(shadow_answers(), shadow_answers(), decisions(), outcomes()), max_size=25))
def test_the_shadows_results_agree_with_a_plain_count(database_url: str, records: list[bytes]) -> None:
    """Each answer counts once; an outcome counts for it and for what the caller was told while it has its decision."""
    with an_open_store(database_url) as store:
        for record in records:
            send(store, [record])
        held = contents(store)
        joined = {row[:2]: row[4] for row in held[OUTCOMES.name] if row[5] is not None}
        answers = [ledger_pb2.ShadowAnswer.FromString(row[-1]) for row in held[SHADOWS.name]]
        keys = {(one.tenant, one.decision_id, one.variant) for one in answers}
        assert len(keys) == len(answers)
        sent = sum(ledger_pb2.JournalRecord.FromString(record).HasField("shadow_answer") for record in records)
        for family in FAMILIES:
            mine = [one for one in answers if one.family == family]
            summary = asyncio.run(store.read(reading.summarize, family, 0))
            assert [one.variant for one in summary.shadows] == sorted({one.variant for one in mine})
            for found in summary.shadows:
                of_shadow = [one for one in mine if one.variant == found.variant]
                said = [one for one in of_shadow if not one.failure]
                assert (found.experiment, found.answered) == ("e", len(said))
                assert found.agreed == sum(one.agrees for one in said)
                assert sum(one.count for one in found.failures) == len(of_shadow) - len(said)
                pairs = [(one, joined.get((one.tenant, one.decision_id))) for one in said]
                usable = [
                    (one, outcome)
                    for one, outcome in pairs
                    if outcome is not None and (family == "delivery" or outcome in {0.0, 1.0})
                ]
                assert found.outcomes == len(usable)
                assert found.HasField("mean_absolute_error") == bool(usable)
                if usable:
                    own = sum(Fraction(abs(one.value - outcome)) for one, outcome in usable) / len(usable)
                    told = sum(Fraction(abs(one.told_value - outcome)) for one, outcome in usable) / len(usable)
                    assert found.mean_absolute_error == float(own)
                    assert found.told_mean_absolute_error == float(told)
                if said and len(answers) == sent:
                    # Percentiles may know answers that gave way.
                    latencies = sorted(one.latency_us for one in said)
                    assert found.p50_ms == latencies[(len(said) + 1) // 2 - 1] / 1000


def test_damage_is_bounded_and_what_is_over_the_bound_is_counted(database_url: str) -> None:
    """With room for two records, five damaged ones leave two rows and a count of five; the sound one is stored."""
    outcome = ledger_pb2.Outcome(decision_id="d1", tenant="north", value=1)
    sound = ledger_pb2.JournalRecord(outcome=outcome).SerializeToString()
    with an_open_store(database_url, max_set_aside=2) as store:
        result = store.append_now([b"\xff" * n for n in range(1, 6)] + [sound], "router-1")
        assert (result.stored, result.set_aside) == (1, 5)
        held = contents(store)
        assert len(held[SET_ASIDE.name]) == 2
        assert held["dispatch"].set_aside == 5


def a_decision(*, at: int, request: bytes, arm: str) -> bytes:
    prediction = prediction_pb2.PredictResponse(
        decision_id="d",
        served_variant="rules",
        assignment=prediction_pb2.Assignment(arm=arm, propensity=1),
    )
    decision = ledger_pb2.Decision(
        decision_id="d",
        tenant="north",
        family="dispatch",
        assigned_at_unix_us=at,
        request_digest=request * 16,
        prediction=prediction,
    )
    return ledger_pb2.JournalRecord(decision=decision).SerializeToString()


@pytest.mark.parametrize("by_one", [True, False])
def test_of_different_requests_under_one_id_the_earliest_is_the_decision_in_every_order(
    database_url: str, *, by_one: bool
) -> None:
    """The other request is set aside once, and the outcome counts for the earliest one's arm."""
    outcome = ledger_pb2.Outcome(decision_id="d", tenant="north", value=1)
    records = [
        a_decision(at=1, request=b"x", arm="a"),
        a_decision(at=2, request=b"y", arm="b"),
        a_decision(at=0, request=b"y", arm="c"),
        a_decision(at=3, request=b"x", arm="d"),
        ledger_pb2.JournalRecord(outcome=outcome).SerializeToString(),
    ]
    found = []
    for order in list(itertools.permutations(records))[:: 1 if by_one else 5]:
        with an_open_store(database_url) as store:
            for batch in ([record] for record in order) if by_one else (order[:3], order[3:]):
                send(store, batch)
            found.append(contents(store))
    assert all(held == found[0] for held in found)
    summary = found[0]["dispatch"]
    assert (summary.decisions, summary.set_aside, summary.outcomes_joined, summary.outcomes_waiting) == (1, 1, 1, 0)
    assert [(arm.arm, arm.assigned, arm.outcomes) for arm in summary.arms] == [("c", 1, 1)]
    assert [reason for _, reason in found[0][SET_ASIDE.name]] == [CONFLICT]


def test_of_several_outcomes_the_one_recorded_last_counts_in_every_order(database_url: str) -> None:
    """Among those recorded at the same instant the later and then the larger one counts, so that routers agree."""
    reports = [(1, 9, 9.0), (2, 1, 5.0), (2, 2, 3.0), (2, 2, 4.0)]
    for order in itertools.permutations(reports):
        with an_open_store(database_url) as store:
            for recorded, occurred, value in order:
                outcome = ledger_pb2.Outcome(
                    decision_id="d",
                    tenant="north",
                    value=value,
                    occurred_at_unix_us=occurred,
                    recorded_at_unix_us=recorded,
                )
                send(store, [ledger_pb2.JournalRecord(outcome=outcome).SerializeToString()])
            ((_, _, recorded, occurred, value, *_),) = contents(store)[OUTCOMES.name]
            assert (recorded, occurred, value) == (2, 2, 4.0)


def test_a_full_disk_refuses_the_batch_as_a_whole_and_the_next_try_stores_it(tmp_path: Path) -> None:
    """Nothing of a refused batch is there, not even a count; once there is room the same batch is new."""
    request = [a_decision(at=1, request=b"x", arm="a"), a_decision(at=2, request=b"y", arm="b"), b"\xff"]
    for number in range(200):
        outcome = ledger_pb2.Outcome(decision_id="d" * 100 + str(number), tenant="north", value=1)
        request.append(ledger_pb2.JournalRecord(outcome=outcome).SerializeToString())
    with an_open_store(f"sqlite:///{tmp_path}/ledger.sqlite") as store:
        before = contents(store)
        writer = store._database._connected.writer
        run_outside_transaction(writer, "PRAGMA max_page_count = 1")  # SQLite takes the present size instead
        with pytest.raises(Unavailable, match="nothing was stored"):
            send(store, request)
        assert contents(store) == before
        run_outside_transaction(writer, "PRAGMA max_page_count = 1000000")
        assert send(store, request) == 203
