"""Adds up the decisions of a ledger from before there were aggregates, a few thousand a transaction."""

from __future__ import annotations

import math
from typing import Final

from sqlalchemy import Connection, bindparam, select, update

from monitoring.ledger.aggregating import Aggregates, Changes, OutcomeChange
from monitoring.ledger.counters import HELD, HELD_BYTES, ROW_BYTES
from monitoring.ledger.families import Describe
from monitoring.ledger.records import cell_of, features_of
from monitoring.ledger.rows import DecisionRow
from monitoring.ledger.tables import DECISIONS, OUTCOMES
from turnout.v1 import ledger_pb2

AGGREGATED: Final = "aggregated_until_us"
"""Up to which instant the decisions of an old ledger were added up; −1 when all were."""
_ROWS: Final = 2000
_PLACED: Final = (
    update(DECISIONS)
    .where(DECISIONS.c.decision_id == bindparam("b_id"), DECISIONS.c.tenant == bindparam("b_tenant"))
    .values(cell=bindparam("b_cell"))
)


def backfill(connection: Connection, counters: dict[str, int], aggregates: Aggregates, describe: Describe) -> bool:
    """Adds up the next decisions that have no cell; gives whether all have one."""
    if counters[AGGREGATED] < 0:
        return True
    same = (OUTCOMES.c.decision_id == DECISIONS.c.decision_id) & (OUTCOMES.c.tenant == DECISIONS.c.tenant)
    statement = (
        select(DECISIONS, OUTCOMES.c.value.label("outcome"))
        .select_from(DECISIONS.outerjoin(OUTCOMES, same))
        .where(DECISIONS.c.cell.is_(None), DECISIONS.c.assigned_at_us >= counters[AGGREGATED])
        .order_by(DECISIONS.c.assigned_at_us)
        .limit(_ROWS)
    )
    rows = connection.execute(statement).all()
    changes = Changes()
    placed = []
    for found in rows:
        row = DecisionRow(*found[:-2])
        decision = ledger_pb2.Decision.FromString(row.record)
        cell = aggregates.cells.id_of(cell_of(decision))
        changes.added.append((cell, row))
        changes.features.append(features_of(decision))
        placed.append({"b_id": row.decision_id, "b_tenant": row.tenant, "b_cell": cell})
        if found.outcome is not None:
            change = OutcomeChange(1, cell, row.family, row.assigned_at_us, row.value, found.outcome, math.nan)
            changes.outcomes.append(change)
        counters[HELD] += 1
        counters[HELD_BYTES] += len(row.record) + ROW_BYTES
    if placed:
        connection.execute(_PLACED, placed)
        aggregates.apply(connection, changes, describe)
    done = len(rows) < _ROWS
    counters[AGGREGATED] = -1 if done else rows[-1].assigned_at_us
    return done
