"""What a ledger needs from time to time: hours and days added up, old windows and old rows removed, in small steps.

Each step is one short transaction between two batches. `Step.more` tells that there is more of the same to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Protocol, Self, TypeVar

from sqlalchemy import Connection, delete, func, select, tuple_

from monitoring.ledger.aggregating import Aggregates
from monitoring.ledger.counters import HELD, HELD_BYTES, PRUNED_UNTIL, ROW_BYTES
from monitoring.ledger.levels import DAY_US, HOUR_US, MINUTE_US
from monitoring.ledger.rankings import prune_rankings
from monitoring.ledger.retention import Retention
from monitoring.ledger.shadows import prune_shadows
from monitoring.ledger.tables import DECISIONS, FEATURE_WINDOWS, OUTCOMES, WINDOWS
from monitoring.ledger.watermarks import DAYS_UNTIL, FEATURE_MINUTES_FROM, HOURS_FROM, HOURS_UNTIL, MINUTES_FROM
from monitoring.ledger.window_rows import Kind, features
from monitoring.ledger.writing import LATE_US
from services.runtime.database import bulk_insert

GRACE_US: Final = 5 * MINUTE_US
"""An hour is added up this long after its end, when most of its records are there."""
PRUNE_ROWS: Final = 1000
"""Decisions, or windows, that one step removes."""
PRUNED: Final = "decisions_pruned"
PRUNED_WAITING: Final = "decisions_pruned_waiting"
"""Decisions that a bound removed while they could still get an outcome."""


class _Mergeable(Protocol):
    def merge(self, other: Self) -> None: ...


M = TypeVar("M", bound=_Mergeable)


@dataclass(slots=True)
class Step:
    """What a step did."""

    rolled: int = 0
    """Windows of hours and days that were made."""
    dropped: int = 0
    """Windows that were removed."""
    pruned: int = 0
    """Decisions that were removed."""

    expired: int = 0
    """Outcomes that were set aside because no decision came."""

    @property
    def more(self) -> bool:
        """Whether there may be more to do."""
        return bool(self.rolled or self.dropped or self.pruned or self.expired)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """One step's means. `counters` is changed in place."""

    connection: Connection
    counters: dict[str, int]
    aggregates: Aggregates
    retention: Retention
    now_us: int
    expire: Callable[[int, int], int]
    """Sets aside outcomes that waited since before an instant, at most so many; gives how many."""

    def step(self) -> Step:
        """Does the first thing that is due, or nothing."""
        done = Step()
        works: tuple[Callable[[Step], None], ...] = (self._hour, self._day, self._drop, self._prune, self._expire)
        for work in works:
            work(done)
            if done.more:
                break
        return done

    def _hour(self, done: Step) -> None:
        due = (self.now_us - GRACE_US) // HOUR_US * HOUR_US
        self._roll(done, HOURS_UNTIL, due, MINUTE_US, HOUR_US)

    def _day(self, done: Step) -> None:
        self._roll(done, DAYS_UNTIL, self.counters[HOURS_UNTIL] // DAY_US * DAY_US, HOUR_US, DAY_US)

    def _roll(self, done: Step, watermark: str, due: int, short: int, long: int) -> None:
        """Adds up the first windows that are due, and moves the watermark past them."""
        until = self.counters[watermark]
        if until >= due:
            return
        start = self._first(FEATURE_WINDOWS, short, until, due) // long * long
        if start < due:
            kind = features(self.aggregates.sets.sizes)
            done.rolled += _merge(self.connection, kind, short, long, start)
        self.counters[watermark] = min(start + long, due)

    def _first(self, table: Any, length: int, start: int, end: int) -> int:
        held = (table.c.length_us == length) & (table.c.start_us >= start) & (table.c.start_us < end)
        found = self.connection.scalar(select(func.min(table.c.start_us)).where(held))
        return end if found is None else int(found)

    def _drop(self, done: Step) -> None:
        """Forgets windows that longer ones have long since covered."""
        kept, until = self.retention, self.counters
        ends = (
            (WINDOWS, MINUTE_US, MINUTES_FROM, self._ago(kept.minute_days * DAY_US, HOUR_US)),
            (
                FEATURE_WINDOWS,
                MINUTE_US,
                FEATURE_MINUTES_FROM,
                min(self._ago(kept.feature_minute_hours * HOUR_US, HOUR_US), until[HOURS_UNTIL]),
            ),
            (WINDOWS, HOUR_US, HOURS_FROM, min(self._ago(kept.hour_days * DAY_US, DAY_US), until[DAYS_UNTIL])),
        )
        for _, _, watermark, end in ends:
            self.counters[watermark] = max(self.counters[watermark], end)
        places = ((table, length, self.counters[watermark]) for table, length, watermark, _ in ends)
        for table, length, end in (*places, (FEATURE_WINDOWS, HOUR_US, self.counters[HOURS_FROM])):
            owner = next(iter(table.columns))
            old = (table.c.length_us == length) & (table.c.start_us < end)
            place = table.c.start_us, owner
            rows = self.connection.execute(select(*place).where(old).order_by(table.c.start_us).limit(PRUNE_ROWS)).all()
            for at, group in groupby(rows, key=itemgetter(0)):
                chosen = owner.in_([row[1] for row in group])
                gone = delete(table).where(table.c.length_us == length, table.c.start_us == at, chosen)
                self.connection.execute(gone)
            done.dropped += len(rows)
        if done.dropped:
            self.aggregates.totals.forget()
            self.aggregates.features.forget()

    def _ago(self, span: int, length: int) -> int:
        return max((self.now_us - span) // length * length, 0)

    def _expire(self, done: Step) -> None:
        done.expired += self.expire(self.now_us - 2 * LATE_US, PRUNE_ROWS)

    def _too_many(self) -> int:
        """Gives how many decisions, about, are over a bound."""
        held, size = self.counters[HELD], self.counters[HELD_BYTES]
        over = held - self.retention.max_decisions if self.retention.max_decisions else 0
        bytes_over = size - self.retention.max_bytes if self.retention.max_bytes else 0
        return max(over, -(-bytes_over * held // max(size, 1)), 0)

    def _prune(self, done: Step) -> None:
        """Removes the oldest decisions: those past their time, or as many as a bound asks for."""
        kept, counters = self.retention, self.counters
        over = self._too_many()
        cutoff = self.now_us - max(kept.raw_days * DAY_US, LATE_US)
        limit = min(over or PRUNE_ROWS, PRUNE_ROWS)
        oldest = select(DECISIONS.c.assigned_at_us).order_by(DECISIONS.c.assigned_at_us).limit(limit)
        if not over:
            oldest = oldest.where(DECISIONS.c.assigned_at_us < cutoff)
        instants = self.connection.scalars(oldest).all()
        if not instants:
            return
        # Up to and with this instant: what comes later with such an instant can be told from what was counted.
        last = instants[-1]
        rows = self.connection.execute(_pruned(last)).all()
        keys = [(row.decision_id, row.tenant) for row in rows]
        for start in range(0, len(keys), 250):
            chosen = tuple_(OUTCOMES.c.decision_id, OUTCOMES.c.tenant).in_(keys[start : start + 250])
            self.connection.execute(delete(OUTCOMES).where(chosen))
        self.connection.execute(delete(DECISIONS).where(DECISIONS.c.assigned_at_us <= last))
        prune_shadows(self.connection, counters, last)
        prune_rankings(self.connection, last)
        waiting = self.now_us - LATE_US
        counters[PRUNED_WAITING] += sum(row.assigned_at_us >= waiting and row.recorded_at_us is None for row in rows)
        counters[PRUNED] += len(rows)
        counters[HELD] -= len(rows)
        counters[HELD_BYTES] -= sum(row.size + ROW_BYTES for row in rows)
        counters[PRUNED_UNTIL] = max(counters[PRUNED_UNTIL], last)
        done.pruned += len(rows)


def _pruned(last: int) -> Any:
    same = (OUTCOMES.c.decision_id == DECISIONS.c.decision_id) & (OUTCOMES.c.tenant == DECISIONS.c.tenant)
    size = func.length(DECISIONS.c.record).label("size")
    columns = (DECISIONS.c.decision_id, DECISIONS.c.tenant, DECISIONS.c.assigned_at_us, size, OUTCOMES.c.recorded_at_us)
    return select(*columns).select_from(DECISIONS.outerjoin(OUTCOMES, same)).where(DECISIONS.c.assigned_at_us <= last)


def _merge(connection: Connection, kind: Kind[M], short: int, long: int, start: int) -> int:
    """Makes the long windows that begin at `start`; gives how many."""
    made = []
    for of, parts in _by_owner(connection, kind, short, start, start + long):
        whole = next(parts)
        for part in parts:
            whole.merge(part)
        made.append((of, long, start, *kind.encode(whole)))
    bulk_insert(connection, kind.table, made)
    return len(made)


def _by_owner(
    connection: Connection, kind: Kind[M], length: int, start: int, end: int
) -> Iterator[tuple[int, Iterator[M]]]:
    table = kind.table
    owner = next(iter(table.columns))
    inside = (table.c.length_us == length) & (table.c.start_us >= start) & (table.c.start_us < end)
    rows = connection.execute(select(table).where(inside).order_by(owner))
    for of, group in groupby(rows, key=itemgetter(0)):
        yield of, (kind.decode(of, tuple(row[3:])) for row in group)
