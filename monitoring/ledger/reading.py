"""What the ledger answers. Each function reads one unchanging state and works in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection, Select, func, select, tuple_

from monitoring.ledger.tables import COUNTERS, DECISIONS, OUTCOMES, SNAPSHOTS, from_signed
from monitoring.ledger.writing import ASIDE, OVERFLOW, WAITING
from services.runtime.errors import ResourceExhausted
from turnout.v1 import ledger_pb2, prediction_pb2

MAX_SNAPSHOT_BYTES: Final = 8 << 20
Position = tuple[int, str, str]
"""Where a listing goes on: (assigned_at_us, tenant, decision_id) of the last entry."""


@dataclass(slots=True)
class _Arm:
    assigned: int = 0
    fallbacks: dict[int, int] = field(default_factory=dict)
    outcomes: int = 0
    mean: float | None = None
    p50_us: int | None = None
    p99_us: int | None = None


def find_families(connection: Connection, tenant: str, decision_ids: Sequence[str]) -> list[str | None]:
    """Gives the family of each decision, None for those that are not there."""
    known: dict[str, str] = {}
    for start in range(0, len(decision_ids), 500):
        chosen = DECISIONS.c.decision_id.in_(decision_ids[start : start + 500])
        rows = connection.execute(
            select(DECISIONS.c.decision_id, DECISIONS.c.family).where(DECISIONS.c.tenant == tenant, chosen)
        )
        known.update((row.decision_id, row.family) for row in rows)
    return [known.get(decision_id) for decision_id in decision_ids]


def list_entries(
    connection: Connection, *, family: str, decision_id: str, since_us: int, after: Position | None, count: int
) -> tuple[list[ledger_pb2.LedgerEntry], Position | None]:
    """Gives the next entries, oldest first, and where to go on (None at the end)."""
    statement = _entries(family, decision_id, since_us).limit(count)
    if after is not None:
        place = tuple_(DECISIONS.c.assigned_at_us, DECISIONS.c.tenant, DECISIONS.c.decision_id)
        statement = statement.where(place > tuple_(*after))
    rows = connection.execute(statement).all()
    if not rows:
        return [], None
    last = rows[-1]
    return [_entry(row) for row in rows], (last.assigned_at_us, last.tenant, last.decision_id)


def _entries(family: str, decision_id: str, since_us: int) -> Select[Any]:
    same = (OUTCOMES.c.decision_id == DECISIONS.c.decision_id) & (OUTCOMES.c.tenant == DECISIONS.c.tenant)
    statement = (
        select(
            DECISIONS.c.assigned_at_us,
            DECISIONS.c.tenant,
            DECISIONS.c.decision_id,
            DECISIONS.c.record,
            OUTCOMES.c.recorded_at_us,
            OUTCOMES.c.occurred_at_us,
            OUTCOMES.c.value,
        )
        .select_from(DECISIONS.outerjoin(OUTCOMES, same))
        .order_by(DECISIONS.c.assigned_at_us, DECISIONS.c.tenant, DECISIONS.c.decision_id)
        .where(DECISIONS.c.assigned_at_us >= since_us)
    )
    if family:
        statement = statement.where(DECISIONS.c.family == family)
    if decision_id:
        statement = statement.where(DECISIONS.c.decision_id == decision_id)
    return statement


def _entry(row: Any) -> ledger_pb2.LedgerEntry:
    entry = ledger_pb2.LedgerEntry(decision=ledger_pb2.Decision.FromString(row.record))
    if row.value is not None:
        entry.outcome.decision_id = row.decision_id
        entry.outcome.tenant = row.tenant
        entry.outcome.value = row.value
        entry.outcome.occurred_at_unix_us = row.occurred_at_us
        entry.outcome.recorded_at_unix_us = row.recorded_at_us
    return entry


def list_snapshots(connection: Connection, family: str) -> list[ledger_pb2.ExperimentSnapshot]:
    """Gives the snapshots of a family (all for ""), oldest first.

    Raises:
        ResourceExhausted: they do not fit into one answer.
    """
    statement = select(SNAPSHOTS).order_by(SNAPSHOTS.c.applied_at_us, SNAPSHOTS.c.family, SNAPSHOTS.c.digest)
    if family:
        statement = statement.where(SNAPSHOTS.c.family == family)
    found, size = [], 0
    for row in connection.execute(statement):
        size += len(row.canonical_json)
        if size > MAX_SNAPSHOT_BYTES:
            raise ResourceExhausted("family", f"the snapshots have over {MAX_SNAPSHOT_BYTES} bytes: name one family")
        found.append(
            ledger_pb2.ExperimentSnapshot(
                family=row.family,
                revision=row.revision,
                digest=from_signed(row.digest),
                canonical_json=row.canonical_json,
                applied_at_unix_us=row.applied_at_us,
                router=row.router,
            )
        )
    return found


def summarize(connection: Connection, family: str, since_us: int) -> ledger_pb2.SummarizeArmsResponse:
    """Gives the results of a family's arms, by the assigned arm, from the raw rows.

    The percentiles are exact (nearest rank): the database counts equal latencies, and the walk over the counts keeps
    one row in memory. The mean is the correctly rounded sum (Shewchuk's algorithm in `math.fsum`) over the count, so
    it does not depend on the order in which outcomes came.
    """
    arms: dict[str, _Arm] = {}
    of_family = (DECISIONS.c.family == family) & (DECISIONS.c.assigned_at_us >= since_us)
    counted = select(DECISIONS.c.arm, DECISIONS.c.fallback, func.count()).where(of_family)
    for arm, fallback, count in connection.execute(counted.group_by(DECISIONS.c.arm, DECISIONS.c.fallback)):
        one = arms.setdefault(arm, _Arm())
        one.assigned += count
        one.fallbacks[fallback] = count
    latency = DECISIONS.c.latency_us
    by_latency = select(DECISIONS.c.arm, latency, func.count()).where(of_family).group_by(DECISIONS.c.arm, latency)
    for arm, counts in _by_arm(connection, by_latency.order_by(DECISIONS.c.arm, latency)):
        one = arms[arm]
        one.p50_us, one.p99_us = _nearest_ranks(counts, one.assigned)
    of_outcomes = (OUTCOMES.c.family == family) & (OUTCOMES.c.assigned_at_us >= since_us)
    by_value = select(OUTCOMES.c.arm, OUTCOMES.c.value, func.count()).where(of_outcomes)
    by_value = by_value.group_by(OUTCOMES.c.arm, OUTCOMES.c.value).order_by(OUTCOMES.c.arm, OUTCOMES.c.value)
    for arm, values in _by_arm(connection, by_value):
        arms[arm].outcomes, arms[arm].mean = _mean(values)
    counters = {row.name: row.value for row in connection.execute(select(COUNTERS))}
    return ledger_pb2.SummarizeArmsResponse(
        arms=[_summary(name, arms[name]) for name in sorted(arms)],
        decisions=sum(arm.assigned for arm in arms.values()),
        outcomes_joined=sum(arm.outcomes for arm in arms.values()),
        outcomes_waiting=counters[WAITING],
        set_aside=counters[ASIDE] + counters[OVERFLOW],
    )


def _by_arm(connection: Connection, statement: Select[Any]) -> Iterator[tuple[str, Iterator[tuple[Any, int]]]]:
    """Splits rows of (arm, x, count), sorted by arm, into the (x, count) of each arm, without holding them all."""
    rows = connection.execution_options(yield_per=2000).execute(statement)
    for arm, group in groupby(rows, key=itemgetter(0)):
        yield arm, ((row[1], row[2]) for row in group)


def _nearest_ranks(counts: Iterable[tuple[int, int]], total: int) -> tuple[int | None, int | None]:
    """Gives the median and the 99th percentile of rising values with their counts: the ⌈q·n⌉-th smallest."""
    ranks = (-(-total * 50 // 100), -(-total * 99 // 100))
    found: list[int | None] = [None, None]
    seen = 0
    for value, count in counts:
        seen += count
        for place, rank in enumerate(ranks):
            if found[place] is None and seen >= rank:
                found[place] = value
    return found[0], found[1]


def _mean(values: Iterable[tuple[float, int]]) -> tuple[int, float]:
    """Gives count and mean of values with their counts."""
    total = 0

    def products() -> Iterator[float]:
        nonlocal total
        for value, count in values:
            total += count
            # Scaled down, so that sums of the largest numbers do not overflow; powers of two lose no bit.
            yield math.ldexp(value, -64) * count

    scaled = math.fsum(products())
    return total, math.ldexp(scaled / total, 64)


def _summary(name: str, arm: _Arm) -> ledger_pb2.ArmSummary:
    answered = prediction_pb2.FALLBACK_REASON_UNSPECIFIED
    return ledger_pb2.ArmSummary(
        arm=name,
        assigned=arm.assigned,
        served=arm.fallbacks.get(answered, 0),
        fallbacks=[
            ledger_pb2.FallbackCount(reason=prediction_pb2.FallbackReason.ValueType(reason), count=count)
            for reason, count in sorted(arm.fallbacks.items())
            if reason != answered
        ],
        outcomes=arm.outcomes,
        outcome_mean=arm.mean,
        p50_ms=None if arm.p50_us is None else arm.p50_us / 1000,
        p99_ms=None if arm.p99_us is None else arm.p99_us / 1000,
    )
