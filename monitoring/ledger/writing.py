"""Stores batches so that each record counts once, whatever the order, the batching and the repetitions.

What is kept does not depend on what came first over the wire:

- of several records of one decision, the one that was assigned earliest is the decision, the rest are duplicates;
- a decision id that was used for different requests keeps the one assigned earliest, and each other request is set
  aside once;
- of several outcomes of one decision the one recorded last is the outcome;
- ties are broken by the records' content.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, select, update
from sqlalchemy.exc import IntegrityError

from monitoring.ledger.aggregating import Changes, OutcomeChange
from monitoring.ledger.appended import Appended
from monitoring.ledger.asides import (
    ALONE,
    LATE,
    MAX_RAW_BYTES,
    PRUNED,
    Aside,
    conflict_aside,
    conflict_fingerprint,
    decision_aside,
    outcome_aside,
    shadow_aside,
)
from monitoring.ledger.cells import Cell, Cells
from monitoring.ledger.counters import (
    ASIDE,
    HELD,
    HELD_BYTES,
    OVERFLOW,
    PRUNED_UNTIL,
    ROW_BYTES,
    SHADOW_ANSWERS,
    WAITING,
    write_counters,
)
from monitoring.ledger.keyed import delete_row, find
from monitoring.ledger.rows import Batch, DecisionRow, Features, Key, OutcomeRow, ShadowRow, SnapshotRow
from monitoring.ledger.shadows import MovedOutcome, Shadows, moved_outcome
from monitoring.ledger.tables import DECISIONS, OUTCOMES, SET_ASIDE, SNAPSHOTS
from services.runtime.database import bulk_insert

LATE_US: Final = 30 * 24 * 3600 * 1_000_000
"""An outcome counts when it is reported within 30 days after its decision."""
_Row = tuple[DecisionRow, Cell, Features]
_JOIN: Final = (
    update(OUTCOMES)
    .where(OUTCOMES.c.tenant == bindparam("b_tenant"), OUTCOMES.c.decision_id == bindparam("b_id"))
    .values(family=bindparam("b_family"), arm=bindparam("b_arm"), assigned_at_us=bindparam("b_at"))
)


class Writing:
    """One transaction's worth of storing. `counters` is changed in place and is the caller's to keep on commit."""

    def __init__(
        self,
        connection: Connection,
        counters: dict[str, int],
        cells: Cells,
        *,
        router: str,
        now_us: int,
        max_set_aside: int,
    ) -> None:
        self._connection = connection
        self._counters = counters
        self._cells = cells
        self._router = router
        self._now_us = now_us
        self._max_set_aside = max_set_aside
        self._result = Appended()
        self._moved_outcomes: list[MovedOutcome] = []
        self.changes = Changes()
        """What the aggregates must follow."""

    def store(self, batch: Batch) -> Appended:
        """Stores a batch; everything or, with an exception, nothing once the transaction is rolled back."""
        before = dict(self._counters)
        self._snapshots(batch.snapshots)
        self._decisions(batch)
        self._outcomes(batch.outcomes)
        self._shadow_answers(batch.shadows)
        damaged = [Aside(hashlib.sha256(raw).digest()[:16], raw, reason) for raw, reason in batch.refused]
        for aside in damaged:
            self.set_aside(aside)
        write_counters(self._connection, before, self._counters)
        return self._result

    def _decisions(self, batch: Batch) -> None:
        rows = list(zip(batch.decisions, batch.cells, batch.features, strict=True))
        gone = self._counters[PRUNED_UNTIL]
        if gone and any(row.assigned_at_us <= gone for row, _, _ in rows):
            for row in (row for row, _, _ in rows if row.assigned_at_us <= gone):
                self.set_aside(decision_aside(row, PRUNED))
            rows = [one for one in rows if one[0].assigned_at_us > gone]
        if not rows:
            return
        if len({one[0][:2] for one in rows}) == len(rows) and self._insert_new(rows):
            self._result.decisions += len(rows)
            return
        self._settle(rows)

    def _insert_new(self, rows: Sequence[_Row]) -> bool:
        """Tries the usual case, in which every decision is new, without asking first."""
        placed = [(self._cells.id_of(cell), row) for row, cell, _ in rows]
        savepoint = self._connection.begin_nested()
        try:
            bulk_insert(self._connection, DECISIONS, [(*row, cell) for cell, row in placed])
        except IntegrityError:
            savepoint.rollback()
            return False
        savepoint.commit()
        self._added(placed, [features for _, _, features in rows])
        self._join(placed)
        return True

    def _settle(self, rows: Sequence[_Row]) -> None:
        """The general case: some decisions are there already, or stand in the batch more than once."""
        found = find(self._connection, DECISIONS, (row[:2] for row, _, _ in rows))
        present_cells = {(one.tenant, one.decision_id): int(one.cell) for one in found}
        before = {(one.tenant, one.decision_id): DecisionRow(*one[:-1]) for one in found}
        held = dict(before)
        sources = {id(row): (cell, features) for row, cell, features in rows}
        for row, _, _ in rows:
            key = (row.tenant, row.decision_id)
            present = held.get(key)
            if present is None:
                held[key] = row
                self._result.decisions += 1
            elif _request(row) == _request(present):
                held[key] = min(row, present, key=_precedence)
                self._result.duplicates["decision"] += 1
            else:
                held[key] = self._conflict(row, present)
        written = [row for key, row in held.items() if row is not before.get(key)]
        gone = [(present_cells[key], row) for key, row in before.items() if held[key] is not row]
        self._take_away(gone)
        placed = [(self._cells.id_of(sources[id(row)][0]), row) for row in written]
        bulk_insert(self._connection, DECISIONS, [(*row, cell) for cell, row in placed])
        self._added(placed, [sources[id(row)][1] for row in written])
        self._join(placed, also_joined=bool(gone))

    def _added(self, placed: list[tuple[int, DecisionRow]], features: list[Features]) -> None:
        self.changes.added += placed
        self.changes.features += features
        self._counters[HELD] += len(placed)
        self._counters[HELD_BYTES] += sum(len(row.record) for _, row in placed) + ROW_BYTES * len(placed)

    def _take_away(self, gone: list[tuple[int, DecisionRow]]) -> None:
        """Removes decisions that give way to an earlier record of the same id, and what their outcomes added."""
        cells = {(row.tenant, row.decision_id): (cell, row) for cell, row in gone}
        for one in find(self._connection, OUTCOMES, cells):
            cell, row = cells[one.tenant, one.decision_id]
            self._moved(-1, cell, row, _outcome_row(one))
        for key, (_, row) in cells.items():
            delete_row(self._connection, DECISIONS, key)
            self._counters[HELD_BYTES] -= len(row.record) + ROW_BYTES
        self._counters[HELD] -= len(gone)
        self.changes.removed += gone

    def _conflict(self, row: DecisionRow, present: DecisionRow) -> DecisionRow:
        """Gives the earlier of two different requests under one id; the other one is set aside, once."""
        winner, loser = sorted((row, present), key=_precedence)
        mine = conflict_fingerprint(row)
        known = self._connection.execute(select(SET_ASIDE.c.at_us).where(SET_ASIDE.c.fingerprint == mine)).first()
        if known is not None and winner is row:
            # This request had lost before and wins now: the two change places.
            self._connection.execute(delete(SET_ASIDE).where(SET_ASIDE.c.fingerprint == mine))
            self._counters[ASIDE] -= 1
            self.set_aside(conflict_aside(loser), count=False)
            self._result.repeated_aside += 1
        else:
            self.set_aside(conflict_aside(loser))
        return winner

    def _join(self, placed: Sequence[tuple[int, DecisionRow]], *, also_joined: bool = False) -> None:
        """Joins the outcomes that came before these decisions; `also_joined`: those of a replaced decision too."""
        if not self._counters[WAITING] and not also_joined:
            return
        cells = {(row.tenant, row.decision_id): (cell, row) for cell, row in placed}
        joined = []
        for one in find(self._connection, OUTCOMES, cells):
            cell, row = cells[one.tenant, one.decision_id]
            outcome = _outcome_row(one)
            self._counters[WAITING] -= one.family is None
            if _late(outcome, row.assigned_at_us):
                delete_row(self._connection, OUTCOMES, outcome[:2])
                self.set_aside(outcome_aside(outcome, LATE), count=False)
                continue
            self._moved(1, cell, row, outcome)
            names = ("b_tenant", "b_id", "b_family", "b_arm", "b_at")
            values = (row.tenant, row.decision_id, row.family, row.arm, row.assigned_at_us)
            joined.append(dict(zip(names, values, strict=True)))
        if joined:
            self._connection.execute(_JOIN, joined)

    def _outcomes(self, rows: list[OutcomeRow]) -> None:
        if not rows:
            return
        columns = ("family", "arm", "assigned_at_us", "cell", "value")
        keys = {row[:2] for row in rows}
        known = {(one[0], one[1]): one for one in find(self._connection, DECISIONS, keys, columns)}
        newest, late = self._newest(rows, known)
        held: dict[Key, OutcomeRow] = {}
        if not self._insert_outcomes(newest, known):
            found = find(self._connection, OUTCOMES, newest)
            held = {(one.tenant, one.decision_id): _outcome_row(one) for one in found}
            newest = {k: row for k, row in newest.items() if k not in held or _recency(row) > _recency(held[k])}
            for key in newest.keys() & held.keys():
                delete_row(self._connection, OUTCOMES, key)
            bulk_insert(self._connection, OUTCOMES, _outcome_columns(newest, known))
        for key, row in newest.items():
            present, decision = held.get(key), known.get(key)
            if present is None:
                self._result.joined += decision is not None
                self._result.waiting += decision is None
            if decision is not None:
                if present is not None:
                    self._moved(-1, decision.cell, decision, present)
                self._moved(1, decision.cell, decision, row)
        self._counters[WAITING] += self._result.waiting
        self._result.duplicates["outcome"] += len(rows) - self._result.joined - self._result.waiting - late

    def _newest(self, rows: Sequence[OutcomeRow], known: Mapping[Key, Any]) -> tuple[dict[Key, OutcomeRow], int]:
        """Gives the newest outcome of each decision, and how many came too late, which are set aside."""
        newest: dict[Key, OutcomeRow] = {}
        late = 0
        for row in rows:
            key = (row.tenant, row.decision_id)
            if key in known and _late(row, known[key].assigned_at_us):
                self.set_aside(outcome_aside(row, LATE))
                late += 1
            elif key not in newest or _recency(row) > _recency(newest[key]):
                newest[key] = row
        return newest, late

    def _insert_outcomes(self, newest: Mapping[Key, OutcomeRow], known: Mapping[Key, Any]) -> bool:
        """Tries the usual case, in which no decision had an outcome, without asking first."""
        savepoint = self._connection.begin_nested()
        try:
            bulk_insert(self._connection, OUTCOMES, _outcome_columns(newest, known))
        except IntegrityError:
            savepoint.rollback()
            return False
        savepoint.commit()
        return True

    def expire(self, before_us: int, limit: int) -> int:
        """Sets aside the oldest outcomes that wait and were recorded before an instant; gives how many."""
        waits = OUTCOMES.c.family.is_(None) & (OUTCOMES.c.recorded_at_us < before_us)
        found = self._connection.execute(select(OUTCOMES).where(waits).order_by(OUTCOMES.c.recorded_at_us).limit(limit))
        expired = [_outcome_row(one) for one in found]
        for outcome in expired:
            delete_row(self._connection, OUTCOMES, outcome[:2])
            self.set_aside(outcome_aside(outcome, ALONE), count=False)
        self._counters[WAITING] -= len(expired)
        return len(expired)

    def _moved(self, sign: int, cell: int, decision: Any, outcome: OutcomeRow) -> None:
        """Notes that an outcome was joined to its decision (sign 1) or parted from it (−1)."""
        moved = moved_outcome(sign, outcome)
        place = (cell, decision.family, decision.assigned_at_us, decision.value)
        self.changes.outcomes.append(OutcomeChange(sign, *place, moved.value, moved.cost, moved.key))
        if self._counters[SHADOW_ANSWERS]:
            self._moved_outcomes.append(moved)

    def _shadow_answers(self, rows: Sequence[ShadowRow]) -> None:
        shadows = Shadows(self._connection, self._counters, self._cells, self.changes)
        shadows.follow(self._moved_outcomes)
        gone = self._counters[PRUNED_UNTIL]
        for row in (row for row in rows if gone and row.assigned_at_us <= gone):
            self.set_aside(shadow_aside(row, PRUNED))
        kept = [row for row in rows if not gone or row.assigned_at_us > gone]
        if kept:
            shadows.store(kept, self._result)

    def _snapshots(self, rows: Sequence[SnapshotRow]) -> None:
        for row in rows:
            same = (SNAPSHOTS.c.family == row.family) & (SNAPSHOTS.c.digest == row.digest)
            present = self._connection.execute(select(SNAPSHOTS).where(same)).first()
            if present is None:
                self._result.snapshots += 1
            else:
                self._result.duplicates["snapshot"] += 1
                if (row.applied_at_us, row.router, row.revision) >= (
                    present.applied_at_us,
                    present.router,
                    present.revision,
                ):
                    continue
                self._connection.execute(delete(SNAPSHOTS).where(same))
            bulk_insert(self._connection, SNAPSHOTS, [row])

    def set_aside(self, aside: Aside, *, count: bool = True) -> None:
        """Sets a record aside once; over the bound it is counted only, so that damage cannot fill the disk."""
        known = select(SET_ASIDE.c.at_us).where(SET_ASIDE.c.fingerprint == aside.fingerprint)
        if self._connection.execute(known).first() is not None:
            self._result.repeated_aside += count
            return
        self._result.set_aside += count
        if self._counters[ASIDE] >= self._max_set_aside:
            self._counters[OVERFLOW] += 1
            return
        self._counters[ASIDE] += 1
        row = (aside.fingerprint, aside.raw[:MAX_RAW_BYTES], aside.reason, self._router, self._now_us)
        bulk_insert(self._connection, SET_ASIDE, [row])


def _precedence(row: DecisionRow) -> tuple[int, bytes]:
    return row.assigned_at_us, row.record


def _recency(row: OutcomeRow) -> tuple[int, int, float, float]:
    return row.recorded_at_us, row.occurred_at_us, row.value, -math.inf if row.cost is None else row.cost


def _outcome_row(found: Any) -> OutcomeRow:
    tenant, decision_id, recorded, occurred, value = found[:5]
    return OutcomeRow(tenant, decision_id, recorded, occurred, value, found.cost)


def _outcome_columns(rows: Mapping[Key, OutcomeRow], known: Mapping[Key, Any]) -> list[tuple[Any, ...]]:
    found = []
    for key, row in rows.items():
        decision = known.get(key)
        of = (None, None, None) if decision is None else (decision.family, decision.arm, decision.assigned_at_us)
        found.append((*row[:5], *of, row.cost))
    return found


def _late(row: OutcomeRow, assigned_at_us: int) -> bool:
    return row.recorded_at_us - assigned_at_us > LATE_US


def _request(row: DecisionRow) -> tuple[str, bytes]:
    """What was asked: two records of one id with the same request are one decision."""
    return row.family, row.request_digest
