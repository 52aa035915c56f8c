"""Records for tests of the ledger, and a ledger that is emptied before each use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from sqlalchemy import delete

from bentos.family import load
from monitoring.ledger.store import Store, StoreSettings, open_store
from monitoring.ledger.tables import METADATA
from services.runtime.database import open_database
from turnout.v1 import ledger_pb2, prediction_pb2

SCHEMA = load("dispatch").schema
ROW = [3.0, *[float(place) for place in range(1, len(SCHEMA))]]
NOW_US = 1_700_000_000_000_000


def a_decision(
    number: int,
    *,
    at: int = NOW_US,
    arm: str = "a",
    variant: str = "a",
    tenant: str = "north",
    family: str = "dispatch",
    value: float = 0.25,
    latency_us: int = 1000,
    fallback: int = 0,
    row: Sequence[float] = ROW,
    burn_in: bool = False,
    request: bytes = b"",
) -> bytes:
    """Gives a serialized record of a decision."""
    decision = ledger_pb2.Decision(
        decision_id=f"d-{number:06d}",
        tenant=tenant,
        family=family,
        assigned_at_unix_us=at,
        latency_us=latency_us,
        features=SCHEMA._struct.pack(*row),
        schema_digest=SCHEMA.digest,
        request_digest=request,
        prediction=prediction_pb2.PredictResponse(
            decision_id=f"d-{number:06d}",
            value=value,
            confidence=max(value, 1 - value) if 0 <= value <= 1 else 0.5,
            served_variant=variant,
            fallback=prediction_pb2.FallbackReason.ValueType(fallback),
            assignment=prediction_pb2.Assignment(arm=arm, propensity=0.5, burn_in=burn_in),
        ),
    )
    return ledger_pb2.JournalRecord(decision=decision).SerializeToString()


def an_outcome(
    number: int, value: float, *, recorded: int = NOW_US, tenant: str = "north", cost: float | None = None
) -> bytes:
    """Gives a serialized record of an outcome."""
    outcome = ledger_pb2.Outcome(
        decision_id=f"d-{number:06d}",
        tenant=tenant,
        value=value,
        occurred_at_unix_us=recorded,
        recorded_at_unix_us=recorded,
        cost=cost,
    )
    return ledger_pb2.JournalRecord(outcome=outcome).SerializeToString()


@contextlib.contextmanager
def ledger(
    url: str, *, now_us: Callable[[], int] = lambda: NOW_US, settings: StoreSettings | None = None, empty: bool = False
) -> Iterator[Store]:
    """Opens a ledger, emptied first if that is asked for."""
    with open_database(url) as database:
        if empty:

            def wipe(connection: object) -> None:
                for table in METADATA.sorted_tables:
                    connection.execute(delete(table))  # type: ignore[attr-defined]

            database.write_now(wipe)
        with open_store(database, now_us=now_us, settings=settings or StoreSettings()) as store:
            yield store
