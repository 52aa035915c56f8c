"""What the ledger answers. Each function reads one unchanging state and works in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Select, select, tuple_

from monitoring.ledger.aggregates import By, Group, Totals, window_totals
from monitoring.ledger.cells import SHADOWS
from monitoring.ledger.counters import ASIDE, OVERFLOW, WAITING
from monitoring.ledger.statistics import Statistics
from monitoring.ledger.tables import COUNTERS, DECISIONS, OUTCOMES, SNAPSHOTS, from_signed
from monitoring.ledger.tally import OutcomeSum
from turnout.v1 import ledger_pb2, prediction_pb2

SNAPSHOT_BYTES: Final = 4 << 20
"""From here on a page of snapshots takes no more of them."""
Position = tuple[int, str, str]
"""Where a listing of decisions goes on: (assigned_at_us, tenant, decision_id) of the last entry."""
Place = tuple[int, str, int]
"""Where a listing of snapshots goes on: (applied_at_us, family, digest as stored) of the last one."""


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
    connection: Connection,
    *,
    family: str,
    decision_id: str,
    since_us: int,
    until_us: int = 0,
    after: Position | None,
    count: int,
) -> tuple[list[ledger_pb2.LedgerEntry], Position | None]:
    """Gives the next entries, oldest first, and where to go on (None at the end)."""
    statement = _entries(family, decision_id, since_us).limit(count)
    if until_us:
        statement = statement.where(DECISIONS.c.assigned_at_us < until_us)
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
            OUTCOMES.c.cost,
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
        if row.cost is not None:
            entry.outcome.cost = row.cost
    return entry


def list_snapshots(
    connection: Connection, family: str, after: Place | None, count: int
) -> tuple[list[ledger_pb2.ExperimentSnapshot], Place | None]:
    """Gives the next snapshots of a family (of all for ""), oldest first, and where to go on (None at the end).

    They are `count` at most, and fewer where they are large: no more are taken once they have 4 MiB.
    """
    columns = (SNAPSHOTS.c.applied_at_us, SNAPSHOTS.c.family, SNAPSHOTS.c.digest)
    statement = select(SNAPSHOTS).order_by(*columns).limit(count)
    if family:
        statement = statement.where(SNAPSHOTS.c.family == family)
    if after is not None:
        statement = statement.where(tuple_(*columns) > tuple_(*after))
    found, size, place = [], 0, None
    with connection.execute(statement.execution_options(yield_per=4)) as rows:
        for row in rows:
            found.append(_snapshot(row))
            place = (row.applied_at_us, row.family, row.digest)
            size += len(row.canonical_json)
            if size >= SNAPSHOT_BYTES:
                return found, place
    return found, place if len(found) == count else None


def _snapshot(row: Any) -> ledger_pb2.ExperimentSnapshot:
    return ledger_pb2.ExperimentSnapshot(
        family=row.family,
        revision=row.revision,
        digest=from_signed(row.digest),
        canonical_json=row.canonical_json,
        applied_at_unix_us=row.applied_at_us,
        router=row.router,
    )


def summarize(connection: Connection, family: str, since_us: int) -> ledger_pb2.SummarizeArmsResponse:
    """Gives the results of a family's arms, by the assigned arm, from the aggregates.

    Its cost depends on the number of arms and windows, not on the number of decisions. Counts and means are exact, the
    mean correctly rounded; the percentiles are nearest ranks, exact up to some 200 decisions and within 1.65 % of the
    rank beyond.
    """
    arms = window_totals(connection, family, since_us=since_us, by=("arm",), populations=None, sketches=("latency",))
    counters = {row.name: row.value for row in connection.execute(select(COUNTERS))}
    by: tuple[By, ...] = ("experiment", "arm", "population")
    copies = window_totals(connection, family, since_us=since_us, by=by, populations=SHADOWS, sketches=("latency",))
    shown = sorted((group[0], totals) for group, totals in arms.items() if totals.decisions)
    return ledger_pb2.SummarizeArmsResponse(
        arms=[_summary(name, totals) for name, totals in shown],
        decisions=sum(totals.decisions for _, totals in shown),
        outcomes_joined=sum(totals.outcomes for _, totals in shown),
        outcomes_waiting=counters[WAITING],
        set_aside=counters[ASIDE] + counters[OVERFLOW],
        shadows=[_shadow(name, results) for name, results in shadow_results(copies)],
    )


@dataclass(frozen=True, slots=True)
class ShadowResults:
    """What one shadow of one experiment did."""

    agreed: int
    failures: Mapping[int, int]
    """Copies without an answer, by the number of their FallbackReason."""
    said: Totals
    """Of its answers."""
    told: Totals
    """Of what callers were told to the rows that it answered."""


def shadow_results(found: Mapping[Group, Totals]) -> list[tuple[tuple[str, str], ShadowResults]]:
    """Gives the results of shadows by (experiment, variant), from totals by experiment, arm and population."""
    results = []
    for name in sorted({(experiment, variant) for experiment, variant, _ in found}):
        agrees, differs, failed, told = (found.get((*name, one), Totals(Statistics())) for one in SHADOWS)
        said = Totals(Statistics())
        for part in (agrees, differs):
            said.statistics.merge(part.statistics)
        if said.decisions or failed.decisions:
            results.append((name, ShadowResults(agrees.decisions, failed.fallbacks, said, told)))
    return results


def _shadow(name: tuple[str, str], results: ShadowResults) -> ledger_pb2.ShadowSummary:
    said, told = results.said, results.told
    p50, p99 = (said.quantile("latency", rank) for rank in (0.5, 0.99))
    return ledger_pb2.ShadowSummary(
        experiment=name[0],
        variant=name[1],
        answered=said.decisions,
        agreed=results.agreed,
        failures=_by_reason(results.failures),
        outcomes=said.outcomes,
        mean_absolute_error=said.mean(OutcomeSum.ABSOLUTE_ERROR),
        told_mean_absolute_error=told.mean(OutcomeSum.ABSOLUTE_ERROR),
        p50_ms=None if p50 is None else p50 / 1000,
        p99_ms=None if p99 is None else p99 / 1000,
    )


def _by_reason(counts: Mapping[int, int]) -> list[ledger_pb2.FallbackCount]:
    return [
        ledger_pb2.FallbackCount(reason=prediction_pb2.FallbackReason.ValueType(reason), count=count)
        for reason, count in counts.items()
    ]


def _summary(name: str, totals: Totals) -> ledger_pb2.ArmSummary:
    p50, p99 = (totals.quantile("latency", rank) for rank in (0.5, 0.99))
    return ledger_pb2.ArmSummary(
        arm=name,
        assigned=totals.decisions,
        served=totals.served,
        fallbacks=_by_reason(totals.fallbacks),
        outcomes=totals.outcomes,
        outcome_mean=totals.mean(OutcomeSum.OUTCOME),
        mean_absolute_error=totals.mean(OutcomeSum.ABSOLUTE_ERROR),
        p50_ms=None if p50 is None else p50 / 1000,
        p99_ms=None if p99 is None else p99 / 1000,
    )
