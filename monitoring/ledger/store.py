"""The ledger's store: batches in, questions out, and a little upkeep in between."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, insert, select

from monitoring.ledger import rankings
from monitoring.ledger.aggregating import Aggregates, Changes
from monitoring.ledger.appended import Appended
from monitoring.ledger.backfill import AGGREGATED, backfill
from monitoring.ledger.cells import CellBounds, Cells
from monitoring.ledger.counters import (
    ASIDE,
    HELD,
    HELD_BYTES,
    OVERFLOW,
    PRUNED_UNTIL,
    SHADOW_ANSWERS,
    WAITING,
    write_counters,
)
from monitoring.ledger.families import Describe, describe
from monitoring.ledger.feature_sets import FeatureSets
from monitoring.ledger.records import read_batch
from monitoring.ledger.retention import Retention
from monitoring.ledger.tables import COUNTERS, SCHEMA_VERSION
from monitoring.ledger.upkeep import PRUNED, PRUNED_WAITING, Step, Upkeep
from monitoring.ledger.watermarks import feature_levels_of, first_watermarks, levels_of
from monitoring.ledger.writing import Writing
from services.runtime.database import Database

MAX_SET_ASIDE: Final = 10_000
OnAppend = Callable[[Appended, float], None]
Follow = Callable[[Connection, Changes], None]
"""Told of what a batch changed, inside the transaction that stores it."""
_VERSION: Final = "schema_version"
_COUNTERS: Final = (WAITING, ASIDE, OVERFLOW, HELD, HELD_BYTES, SHADOW_ANSWERS, PRUNED_UNTIL, PRUNED, PRUNED_WAITING)
_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """What an operator may choose."""

    retention: Retention = field(default_factory=Retention)
    bounds: CellBounds = field(default_factory=CellBounds)
    max_set_aside: int = MAX_SET_ASIDE
    """Rows of records that could not be stored; more are counted only."""


@dataclass(slots=True)
class _Memory:
    """What is known of the database's contents without asking. It holds as long as every transaction succeeds."""

    generation: int
    counters: dict[str, int]
    aggregates: Aggregates


class Store:
    """An open ledger. Made by `open_store`; its coroutines belong to one event loop."""

    def __init__(
        self,
        database: Database,
        *,
        now_us: Callable[[], int],
        clock: Callable[[], float],
        settings: StoreSettings,
        appended: OnAppend,
        describe_family: Describe,
        follow: Follow,
    ) -> None:
        self._database = database
        self._now_us = now_us
        self._clock = clock
        self._settings = settings
        self._appended = appended
        self._describe = describe_family
        self._follow = follow
        self._memory: _Memory | None = None

    async def append(self, records: Sequence[bytes], router: str) -> Appended:
        """Stores serialized JournalRecords; returns when they are on stable storage.

        A caller that stops waiting does not undo the batch: repeating it is harmless.

        Raises:
            Unavailable: the database refused (full, read-only, away); the same batch is due again.
        """
        return await self._database.exclusively(lambda: self.append_now(records, router))

    def append_now(self, records: Sequence[bytes], router: str) -> Appended:
        """Does the work of `append` in the calling thread; never call it from two at once."""
        began = self._clock()
        batch = read_batch(records)

        def work(connection: Connection, memory: _Memory) -> Appended:
            writing = self._writing(connection, memory, router)
            result = writing.store(batch)
            rankings.follow(connection, writing.changes, self._describe)
            memory.aggregates.apply(connection, writing.changes, self._describe)
            self._follow(connection, writing.changes)
            return result

        result = self._write(work)
        self._appended(result, self._clock() - began)
        return result

    async def upkeep(self) -> Step:
        """Does one step of what is due: adds up an hour or a day, or removes what is old; a short transaction.

        Raises:
            Unavailable: the database refused; the step is due again.
        """
        return await self._database.exclusively(self.upkeep_now)

    def upkeep_now(self) -> Step:
        """Does the work of `upkeep` in the calling thread; never call it from two at once."""

        def work(connection: Connection, memory: _Memory) -> Step:
            before = dict(memory.counters)
            expire = self._writing(connection, memory, "").expire
            due = Upkeep(
                connection, memory.counters, memory.aggregates, self._settings.retention, self._now_us(), expire
            )
            step = due.step()
            write_counters(connection, before, memory.counters)
            memory.aggregates.levels = levels_of(memory.counters)
            memory.aggregates.feature_levels = feature_levels_of(memory.counters)
            return step

        return self._write(work)

    async def read(
        self, question: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Answers a question of `monitoring.ledger.reading` from one unchanging state.

        Raises:
            DeadlineExceeded: it took longer than the database's limit.
            Unavailable: the database refused.
        """
        return await self._database.read(question, *args, **kwargs)

    def prepare(self) -> None:
        """Adds up decisions from before there were aggregates; a new ledger has none."""
        while not self._write(self._backfilled):
            pass

    def _backfilled(self, connection: Connection, memory: _Memory) -> bool:
        before = dict(memory.counters)
        done = backfill(connection, memory.counters, memory.aggregates, self._describe)
        write_counters(connection, before, memory.counters)
        return done

    def _write(self, work: Callable[[Connection, _Memory], _T]) -> _T:
        """Does work in a transaction. When it fails, what is in memory may not be what is stored: it is forgotten."""

        def transaction(connection: Connection) -> _T:
            memory = self._memory
            if memory is None or memory.generation != self._database.generation:
                memory = self._memory = self._load(connection)
            return work(connection, memory)

        try:
            return self._database.write_now(transaction)
        except BaseException:
            self._memory = None
            raise

    def _writing(self, connection: Connection, memory: _Memory, router: str) -> Writing:
        return Writing(
            connection,
            memory.counters,
            memory.aggregates.cells,
            router=router,
            now_us=self._now_us(),
            max_set_aside=self._settings.max_set_aside,
        )

    def _load(self, connection: Connection) -> _Memory:
        counters = {row.name: row.value for row in connection.execute(select(COUNTERS))}
        expected = dict.fromkeys(_COUNTERS, 0) | {_VERSION: SCHEMA_VERSION, AGGREGATED: 0}
        expected |= first_watermarks(self._now_us(), self._settings.retention)
        fresh = {name: value for name, value in expected.items() if name not in counters}
        if fresh:
            connection.execute(insert(COUNTERS), [{"name": n, "value": v} for n, v in fresh.items()])
        counters |= fresh
        aggregates = Aggregates(
            Cells.load(connection, self._settings.bounds),
            FeatureSets.load(connection),
            levels=levels_of(counters),
            feature_levels=feature_levels_of(counters),
        )
        return _Memory(self._database.generation, counters, aggregates)


_DEFAULT: Final = StoreSettings()


@contextlib.contextmanager
def open_store(
    database: Database,
    *,
    now_us: Callable[[], int],
    clock: Callable[[], float] = time.monotonic,
    settings: StoreSettings = _DEFAULT,
    appended: OnAppend = lambda _result, _seconds: None,
    describe_family: Describe = describe,
    follow: Follow = lambda _connection, _changes: None,
) -> Iterator[Store]:
    """Opens the ledger in a database; one whose rows were never added up adds them up first.

    Args:
        database: where it is kept.
        now_us: microseconds since 1970-01-01T00:00Z; stamps what is set aside and tells what is old.
        clock: rising seconds.
        settings: retention and bounds.
        appended: told of each stored batch and how many seconds it took, in the writer's thread.
        describe_family: what is known of a family.
        follow: told of what each batch changed, inside the transaction that stores it.

    Raises:
        Unavailable: the database refused.
    """
    store = Store(
        database,
        now_us=now_us,
        clock=clock,
        settings=settings,
        appended=appended,
        describe_family=describe_family,
        follow=follow,
    )
    store.prepare()
    yield store
