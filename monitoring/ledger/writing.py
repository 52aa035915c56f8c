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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Table, bindparam, delete, select, update
from sqlalchemy.exc import IntegrityError

from monitoring.ledger.records import Batch, DecisionRow, Key, OutcomeRow, SnapshotRow
from monitoring.ledger.tables import COUNTERS, DECISIONS, OUTCOMES, SET_ASIDE, SNAPSHOTS
from services.runtime.database import bulk_insert
from turnout.v1 import ledger_pb2

WAITING: Final = "outcomes_waiting"
ASIDE: Final = "set_aside"
OVERFLOW: Final = "set_aside_overflow"
MAX_RAW_BYTES: Final = 16 << 10
"""A record that is set aside is kept up to this length."""
_CHUNK: Final = 500
CONFLICT: Final = "the decision id was used for another request"


@dataclass(slots=True)
class Appended:
    """What became of a batch."""

    decisions: int = 0
    joined: int = 0
    """New outcomes whose decision is known."""
    waiting: int = 0
    """New outcomes whose decision is not known yet."""
    snapshots: int = 0
    duplicates: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("decision", "outcome", "snapshot"), 0))
    repeated_aside: int = 0
    """Records that had been set aside before."""
    set_aside: int = 0

    @property
    def stored(self) -> int:
        """Records that were new."""
        return self.decisions + self.joined + self.waiting + self.snapshots

    @property
    def repeated(self) -> int:
        """Records that were already there."""
        return sum(self.duplicates.values()) + self.repeated_aside


class _Aside(NamedTuple):
    fingerprint: bytes
    raw: bytes
    reason: str


class Writing:
    """One transaction's worth of storing. `counters` is changed in place and is the caller's to keep on commit."""

    def __init__(
        self, connection: Connection, counters: dict[str, int], *, router: str, now_us: int, max_set_aside: int
    ) -> None:
        self._connection = connection
        self._counters = counters
        self._router = router
        self._now_us = now_us
        self._max_set_aside = max_set_aside
        self._result = Appended()

    def store(self, batch: Batch) -> Appended:
        """Stores a batch; everything or, with an exception, nothing once the transaction is rolled back."""
        before = dict(self._counters)
        self._snapshots(batch.snapshots)
        self._decisions(batch.decisions)
        self._outcomes(batch.outcomes)
        damaged = [_Aside(hashlib.sha256(raw).digest()[:16], raw, reason) for raw, reason in batch.refused]
        for aside in damaged:
            self._set_aside(aside)
        changed = [{"b_name": n, "b_value": v} for n, v in self._counters.items() if before[n] != v]
        if changed:
            by_name = update(COUNTERS).where(COUNTERS.c.name == bindparam("b_name"))
            self._connection.execute(by_name.values(value=bindparam("b_value")), changed)
        return self._result

    def _decisions(self, rows: list[DecisionRow]) -> None:
        if not rows:
            return
        if len({row[:2] for row in rows}) == len(rows) and self._insert_new(rows):
            self._result.decisions += len(rows)
            if self._counters[WAITING]:
                self._counters[WAITING] -= self._join(rows)
            return
        self._settle(rows)

    def _insert_new(self, rows: Sequence[DecisionRow]) -> bool:
        """Tries the usual case, in which every decision is new, without asking first."""
        savepoint = self._connection.begin_nested()
        try:
            bulk_insert(self._connection, DECISIONS, rows)
        except IntegrityError:
            savepoint.rollback()
            return False
        savepoint.commit()
        return True

    def _settle(self, rows: Sequence[DecisionRow]) -> None:
        """The general case: some decisions are there already, or stand in the batch more than once."""
        held = {
            (row.tenant, row.decision_id): DecisionRow(*row)
            for row in _find(self._connection, DECISIONS, (row[:2] for row in rows))
        }
        before = dict(held)
        for row in rows:
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
        new = [row for key, row in held.items() if key not in before]
        replaced = [row for key, row in held.items() if key in before and row is not before[key]]
        for row in replaced:
            _delete(self._connection, DECISIONS, (row.tenant, row.decision_id))
        bulk_insert(self._connection, DECISIONS, new + replaced)
        if new and self._counters[WAITING]:
            self._counters[WAITING] -= self._join(new)
        if replaced:
            self._join(replaced)

    def _conflict(self, row: DecisionRow, present: DecisionRow) -> DecisionRow:
        """Gives the earlier of two different requests under one id; the other one is set aside, once."""
        winner, loser = sorted((row, present), key=_precedence)
        mine = _conflict_fingerprint(row)
        known = self._connection.execute(select(SET_ASIDE.c.at_us).where(SET_ASIDE.c.fingerprint == mine)).first()
        if known is not None and winner is row:
            # This request had lost before and wins now: the two change places.
            self._connection.execute(delete(SET_ASIDE).where(SET_ASIDE.c.fingerprint == mine))
            self._counters[ASIDE] -= 1
            self._set_aside(_conflict_aside(loser), count=False)
            self._result.repeated_aside += 1
        else:
            self._set_aside(_conflict_aside(loser))
        return winner

    def _join(self, rows: Iterable[DecisionRow]) -> int:
        """Writes what summaries need onto the outcomes of these decisions; gives how many outcomes there were."""
        statement = (
            update(OUTCOMES)
            .where(OUTCOMES.c.tenant == bindparam("b_tenant"), OUTCOMES.c.decision_id == bindparam("b_id"))
            .values(family=bindparam("b_family"), arm=bindparam("b_arm"), assigned_at_us=bindparam("b_at"))
        )
        parameters = [
            {
                "b_tenant": r.tenant,
                "b_id": r.decision_id,
                "b_family": r.family,
                "b_arm": r.arm,
                "b_at": r.assigned_at_us,
            }
            for r in rows
        ]
        return int(self._connection.execute(statement, parameters).rowcount)

    def _outcomes(self, rows: list[OutcomeRow]) -> None:
        if not rows:
            return
        newest: dict[Key, OutcomeRow] = {}
        for row in rows:
            key = (row.tenant, row.decision_id)
            newest[key] = max(row, newest.get(key, row), key=_recency)
        known = {
            (row.tenant, row.decision_id): (row.family, row.arm, row.assigned_at_us)
            for row in _find(self._connection, DECISIONS, newest, ("family", "arm", "assigned_at_us"))
        }
        held = {
            (row.tenant, row.decision_id): OutcomeRow(*row[:5]) for row in _find(self._connection, OUTCOMES, newest)
        }
        insert: list[tuple[Any, ...]] = []
        for key, row in newest.items():
            present = held.get(key)
            if present is not None and _recency(row) <= _recency(present):
                continue
            if present is not None:
                _delete(self._connection, OUTCOMES, key)
            elif key in known:
                self._result.joined += 1
            else:
                self._result.waiting += 1
            insert.append((*row, *known.get(key, (None, None, None))))
        bulk_insert(self._connection, OUTCOMES, insert)
        self._counters[WAITING] += self._result.waiting
        self._result.duplicates["outcome"] += len(rows) - self._result.joined - self._result.waiting

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

    def _set_aside(self, aside: _Aside, *, count: bool = True) -> None:
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


def _recency(row: OutcomeRow) -> tuple[int, int, float]:
    return row.recorded_at_us, row.occurred_at_us, row.value


def _request(row: DecisionRow) -> tuple[str, bytes]:
    """What was asked: two records of one id with the same request are one decision."""
    return row.family, row.request_digest


def _conflict_fingerprint(row: DecisionRow) -> bytes:
    parts = (row.tenant, row.decision_id, row.family, row.request_digest.hex())
    return hashlib.sha256("\0".join(("conflict", *parts)).encode()).digest()[:16]


def _conflict_aside(row: DecisionRow) -> _Aside:
    record = ledger_pb2.JournalRecord(decision=ledger_pb2.Decision.FromString(row.record))
    return _Aside(_conflict_fingerprint(row), record.SerializeToString(), CONFLICT)


def _find(connection: Connection, table: Table, keys: Iterable[Key], columns: Sequence[str] = ()) -> Iterable[Any]:
    """Gives the rows of a table that stand under these keys."""
    by_tenant: dict[str, list[str]] = {}
    for tenant, decision_id in keys:
        by_tenant.setdefault(tenant, []).append(decision_id)
    wanted = [table.c.tenant, table.c.decision_id, *(table.c[name] for name in columns)] if columns else [table]
    for tenant, ids in by_tenant.items():
        for start in range(0, len(ids), _CHUNK):
            chosen = table.c.decision_id.in_(ids[start : start + _CHUNK])
            yield from connection.execute(select(*wanted).where(table.c.tenant == tenant, chosen)).all()


def _delete(connection: Connection, table: Table, key: Key) -> None:
    connection.execute(delete(table).where(table.c.tenant == key[0], table.c.decision_id == key[1]))
