"""What shadows answered: stored once by decision and variant, and counted in cells of their own.

A shadow's answers are counted in cells whose arm and variant are the shadow, and whose population tells whether the
answer agrees with what the caller was told. What the callers were told to the same rows is counted beside it, in the
population `shadowed`: so both are compared on the same decisions. An outcome counts for them while it is joined to the
decision. Nothing depends on what came first: of several answers of one shadow to one decision the one to the decision
that was assigned earliest is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, select

from monitoring.ledger.aggregating import Changes, Counted, OutcomeChange
from monitoring.ledger.appended import Appended
from monitoring.ledger.cells import SHADOW_AGREES, SHADOW_DIFFERS, SHADOW_FAILED, SHADOWED, Cell, Cells
from monitoring.ledger.counters import HELD_BYTES, ROW_BYTES, SHADOW_ANSWERS
from monitoring.ledger.keyed import find
from monitoring.ledger.rows import Key, ShadowRow
from monitoring.ledger.tables import OUTCOMES, SHADOWS
from services.runtime.database import bulk_insert
from turnout.v1 import ledger_pb2


class MovedOutcome(NamedTuple):
    """An outcome that was joined to its decision (sign 1) or parted from it (−1)."""

    sign: int
    key: Key
    value: float
    cost: float
    """NaN when none was reported."""


class Shadows:
    """One transaction's worth of answers of shadows. `counters` and `changes` are changed in place."""

    def __init__(self, connection: Connection, counters: dict[str, int], cells: Cells, changes: Changes) -> None:
        self._connection = connection
        self._counters = counters
        self._cells = cells
        self._changes = changes

    def follow(self, moved: Sequence[MovedOutcome]) -> None:
        """Counts outcomes that were joined or parted for the answers that are stored already."""
        if not moved or not self._counters[SHADOW_ANSWERS]:
            return
        present = _by_key(find(self._connection, SHADOWS, {one.key for one in moved}))
        for one in moved:
            for row in present.get(one.key, ()):
                self._outcome(row, (row.cell, row.told_cell), one)

    def store(self, rows: Sequence[ShadowRow], result: Appended) -> None:
        """Stores answers; to be called after the batch's decisions and outcomes."""
        keys = {row[:2] for row in rows}
        found = find(self._connection, SHADOWS, keys) if self._counters[SHADOW_ANSWERS] else []
        before = {(one.tenant, one.decision_id, one.variant): one for one in found}
        held: dict[tuple[str, str, str], Any] = dict(before)
        for row in rows:
            key = (row.tenant, row.decision_id, row.variant)
            if key in held:
                held[key] = min(held[key], row, key=_precedence)
                result.duplicates["shadow_answer"] += 1
            else:
                held[key] = row
                result.shadows += 1
        written: list[ShadowRow] = [row for key, row in held.items() if row is not before.get(key)]
        gone = [one for key, one in before.items() if held[key] is not one]
        outcomes = {(one.tenant, one.decision_id): one for one in self._joined(row[:2] for row in written)}
        for one in gone:
            self._take_away(one, outcomes.get((one.tenant, one.decision_id)))
        placed = [(row, *self._add(row)) for row in written]
        bulk_insert(self._connection, SHADOWS, [(*row, said, told) for row, said, told in placed])
        for row, said, told in placed:
            if (outcome := outcomes.get((row.tenant, row.decision_id))) is not None:
                self._outcome(row, (said, told), moved_outcome(1, outcome))
        self._counters[SHADOW_ANSWERS] += len(written) - len(gone)
        size = sum(len(row.record) for row in written) - sum(len(one.record) for one in gone)
        self._counters[HELD_BYTES] += size + ROW_BYTES * (len(written) - len(gone))

    def _joined(self, keys: Iterable[Key]) -> list[Any]:
        return [one for one in find(self._connection, OUTCOMES, set(keys)) if one.family is not None]

    def _add(self, row: ShadowRow) -> tuple[int, int]:
        """Counts an answer; gives the cells of it and of what the caller was told."""
        answer = ledger_pb2.ShadowAnswer.FromString(row.record)
        said, told = (self._cells.id_of(cell) for cell in _cells(answer))
        self._changes.shadows_added += _counted(answer, said, told)
        return said, told

    def _take_away(self, one: Any, outcome: Any | None) -> None:
        answer = ledger_pb2.ShadowAnswer.FromString(one.record)
        self._changes.shadows_removed += _counted(answer, one.cell, one.told_cell)
        if outcome is not None:
            self._outcome(one, (one.cell, one.told_cell), moved_outcome(-1, outcome))
        same = (SHADOWS.c.tenant == one.tenant) & (SHADOWS.c.decision_id == one.decision_id)
        self._connection.execute(delete(SHADOWS).where(same, SHADOWS.c.variant == one.variant))

    def _outcome(self, row: Any, cells: tuple[int, int], moved: MovedOutcome) -> None:
        if row.failure:
            return
        for cell, value in zip(cells, (row.value, row.told_value), strict=True):
            change = OutcomeChange(moved.sign, cell, row.family, row.assigned_at_us, value, moved.value, moved.cost)
            self._changes.shadow_outcomes.append(change)


def moved_outcome(sign: int, outcome: Any) -> MovedOutcome:
    """Gives a row of the table `outcomes`, or what is to become one, as an outcome that moves."""
    cost = float("nan") if outcome.cost is None else outcome.cost
    return MovedOutcome(sign, (outcome.tenant, outcome.decision_id), outcome.value, cost)


def prune_shadows(connection: Connection, counters: dict[str, int], last_us: int) -> None:
    """Removes the answers to decisions that were assigned up to an instant; what was counted stays counted."""
    if not counters[SHADOW_ANSWERS]:
        return
    old = SHADOWS.c.assigned_at_us <= last_us
    size = func.coalesce(func.sum(func.length(SHADOWS.c.record)), 0)
    number, size_of_all = connection.execute(select(func.count(), size).select_from(SHADOWS).where(old)).one()
    connection.execute(delete(SHADOWS).where(old))
    counters[SHADOW_ANSWERS] -= int(number)
    counters[HELD_BYTES] -= int(size_of_all) + ROW_BYTES * int(number)


def _cells(answer: ledger_pb2.ShadowAnswer) -> tuple[Cell, Cell]:
    """Gives the cell of an answer, and the one of what the caller was told."""
    said = SHADOW_FAILED if answer.failure else SHADOW_AGREES if answer.agrees else SHADOW_DIFFERS
    own = Cell(answer.family, answer.experiment, answer.variant, answer.variant, answer.tenant, said)
    return own, own._replace(variant=answer.served_variant, population=SHADOWED)


def _counted(answer: ledger_pb2.ShadowAnswer, said: int, told: int) -> list[tuple[int, Counted]]:
    """Gives how an answer is counted: what the caller was told only where there is something to compare it with."""
    family, at = answer.family, answer.assigned_at_unix_us
    own = Counted(family, at, answer.value, answer.confidence, answer.latency_us, answer.failure)
    if answer.failure:
        return [(said, own)]
    return [(said, own), (told, Counted(family, at, answer.told_value, answer.told_confidence, answer.told_latency_us))]


def _precedence(row: Any) -> tuple[int, bytes]:
    return row.assigned_at_us, row.record


def _by_key(found: Iterable[Any]) -> dict[Key, list[Any]]:
    by_key: dict[Key, list[Any]] = {}
    for one in found:
        by_key.setdefault((one.tenant, one.decision_id), []).append(one)
    return by_key
