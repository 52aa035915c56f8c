"""Journal records become rows, or a reason why not."""

from __future__ import annotations

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.ledger.records import LAST_US, MAX_CANONICAL_BYTES, MAX_RECORD_BYTES, read_batch
from monitoring.ledger.tables import from_signed, to_signed
from router import applying
from services.control import plans
from services.runtime.identifiers import MAX_TEXT
from turnout.v1 import ledger_pb2, prediction_pb2


def a_decision() -> ledger_pb2.Decision:
    return ledger_pb2.Decision(
        decision_id="d-1",
        tenant="city",
        family="dispatch",
        assigned_at_unix_us=5,
        latency_us=900,
        request_digest=b"q" * 16,
        prediction=prediction_pb2.PredictResponse(
            decision_id="d-1",
            value=0.25,
            confidence=0.5,
            served_variant="rules",
            assignment=prediction_pb2.Assignment(arm="a", propensity=0.5, revision=3, snapshot_digest=2**64 - 1),
        ),
    )


def an_outcome() -> ledger_pb2.Outcome:
    return ledger_pb2.Outcome(decision_id="d-1", tenant="city", value=1, recorded_at_unix_us=7)


def a_snapshot() -> ledger_pb2.ExperimentSnapshot:
    text = '{"revision":1}'
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return ledger_pb2.ExperimentSnapshot(family="dispatch", revision=1, digest=digest, canonical_json=text)


def reason(record: ledger_pb2.JournalRecord) -> str:
    (refused,) = read_batch([record.SerializeToString()]).refused
    return refused.reason


def test_each_kind_of_record_becomes_its_row() -> None:
    """A decision, an outcome and a snapshot keep what the summaries need, the digest as a signed number."""
    batch = read_batch(
        [
            ledger_pb2.JournalRecord(decision=a_decision()).SerializeToString(),
            ledger_pb2.JournalRecord(outcome=an_outcome()).SerializeToString(),
            ledger_pb2.JournalRecord(snapshot=a_snapshot()).SerializeToString(),
        ]
    )
    assert batch.refused == []
    (decision,), (outcome,), (snapshot,) = batch.decisions, batch.outcomes, batch.snapshots
    assert (decision.tenant, decision.decision_id, decision.arm, decision.latency_us) == ("city", "d-1", "a", 900)
    assert decision.snapshot_digest == -1
    assert ledger_pb2.Decision.FromString(decision.record) == a_decision()
    assert (outcome.recorded_at_us, outcome.value) == (7, 1.0)
    assert from_signed(snapshot.digest) == a_snapshot().digest


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("decision_id", "", "decision_id"),
        ("decision_id", "x" * 129, "decision_id"),
        ("tenant", "", "tenant"),
        ("tenant", "x" * 10_000, "tenant"),
        ("family", "no spaces", "family"),
        ("assigned_at_unix_us", -1, "assigned_at_unix_us"),
        ("assigned_at_unix_us", LAST_US + 1, "after the year 9999"),
        ("assigned_at_unix_us", 2**63 - 1, "after the year 9999"),
        ("request_digest", b"short", "request_digest"),
        ("prediction.decision_id", "another", "prediction.decision_id"),
        ("prediction.value", math.nan, "prediction.value"),
        ("prediction.confidence", 1.5, "prediction.confidence"),
        ("prediction.confidence", math.nan, "prediction.confidence"),
        ("prediction.served_variant", "", "served_variant"),
        ("prediction.assignment.propensity", 0.0, "propensity"),
        ("prediction.assignment.arm", "a\0b", "arm"),
    ],
)
def test_a_wrong_decision_is_refused_with_the_field(path: str, value: object, says: str) -> None:
    """The reason names the field at fault."""
    decision = a_decision()
    *parents, field = path.split(".")
    target = decision
    for parent in parents:
        target = getattr(target, parent)
    setattr(target, field, value)
    assert says in reason(ledger_pb2.JournalRecord(decision=decision))


def test_a_wrong_outcome_or_snapshot_is_refused_with_the_field() -> None:
    """Values that are no numbers and digests of other texts do not get in."""
    outcome = an_outcome()
    outcome.value = math.inf
    assert "value" in reason(ledger_pb2.JournalRecord(outcome=outcome))
    outcome = an_outcome()
    outcome.recorded_at_unix_us = -5
    assert "recorded_at_unix_us" in reason(ledger_pb2.JournalRecord(outcome=outcome))
    outcome = an_outcome()
    outcome.occurred_at_unix_us = 2**63 - 1
    assert "occurred_at_unix_us" in reason(ledger_pb2.JournalRecord(outcome=outcome))
    snapshot = a_snapshot()
    snapshot.canonical_json += " "
    assert "digest" in reason(ledger_pb2.JournalRecord(snapshot=snapshot))


def test_the_largest_experiment_that_can_run_can_be_stored() -> None:
    """A decision whose experiment is not in the ledger could not be replayed."""
    assert MAX_CANONICAL_BYTES == plans.MAX_EXPERIMENT_BYTES == applying.MAX_CANONICAL_BYTES
    snapshot = a_snapshot()
    snapshot.canonical_json = "x" * MAX_CANONICAL_BYTES
    snapshot.digest = int.from_bytes(hashlib.sha256(snapshot.canonical_json.encode()).digest()[:8], "big")
    snapshot.router = "r" * MAX_TEXT
    batch = read_batch([ledger_pb2.JournalRecord(snapshot=snapshot).SerializeToString()])
    assert [len(one.canonical_json) for one in batch.snapshots] == [MAX_CANONICAL_BYTES]


def test_damage_does_not_touch_the_neighbours() -> None:
    """Cut, empty, oversized and foreign bytes are refused one by one; the sound record between them is kept."""
    sound = ledger_pb2.JournalRecord(decision=a_decision()).SerializeToString()
    batch = read_batch([b"", b"\xff\xff", sound[:-3], sound, b"\0" * (MAX_RECORD_BYTES + 1)])
    assert len(batch.decisions) == 1
    assert len(batch.refused) == 4


@given(st.binary(max_size=300))
def test_no_bytes_raise(raw: bytes) -> None:
    """Whatever the bytes, they are one record that is either kept or refused."""
    batch = read_batch([raw])
    assert len(batch.decisions) + len(batch.outcomes) + len(batch.snapshots) + len(batch.refused) == 1


@given(st.integers(0, 2**64 - 1))
def test_unsigned_numbers_fit_into_signed_columns_and_come_back(number: int) -> None:
    """The map onto signed numbers loses nothing."""
    assert -(2**63) <= to_signed(number) < 2**63
    assert from_signed(to_signed(number)) == number
