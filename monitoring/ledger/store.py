"""The ledger's store: batches in, questions out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, insert, select

from monitoring.ledger.records import Batch, read_batch
from monitoring.ledger.tables import COUNTERS, SCHEMA_VERSION
from monitoring.ledger.writing import ASIDE, OVERFLOW, WAITING, Appended, Writing
from services.runtime.database import Database

MAX_SET_ASIDE: Final = 10_000
OnAppend = Callable[[Appended, float], None]
_VERSION: Final = "schema_version"
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Store:
    """An open ledger. Made by `open_store`; its methods may be called from one event loop."""

    def __init__(
        self,
        database: Database,
        *,
        now_us: Callable[[], int],
        clock: Callable[[], float],
        max_set_aside: int,
        appended: OnAppend,
    ) -> None:
        self._database = database
        self._appended = appended
        self._now_us = now_us
        self._clock = clock
        self._max_set_aside = max_set_aside
        self._generation = database.generation
        self._counters = database.write_now(_prepare_counters)

    async def append(self, records: Sequence[bytes], router: str) -> Appended:
        """Stores serialized JournalRecords; returns when they are on stable storage.

        A caller that stops waiting does not undo the batch: repeating it is harmless.

        Raises:
            Unavailable: the database refused (full, read-only, away); the same batch is due again.
        """
        began = self._clock()
        return self._done(await self._database.write(self._append, records, router), began)

    def append_now(self, records: Sequence[bytes], router: str) -> Appended:
        """Does the work of `append` in the calling thread; never call it from two at once."""
        began = self._clock()
        return self._done(self._database.write_now(self._append, records, router), began)

    def _append(self, connection: Connection, records: Sequence[bytes], router: str) -> tuple[Appended, dict[str, int]]:
        batch: Batch = read_batch(records)
        counters = dict(self._counters)
        writing = Writing(connection, counters, router=router, now_us=self._now_us(), max_set_aside=self._max_set_aside)
        return writing.store(batch), counters

    def _done(self, outcome: tuple[Appended, dict[str, int]], began: float) -> Appended:
        result, self._counters = outcome
        self._appended(result, self._clock() - began)
        return result

    async def read(
        self, question: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Answers a question of `monitoring.ledger.reading` from one unchanging state.

        Raises:
            DeadlineExceeded: it took longer than the database's limit.
            Unavailable: the database refused.
        """
        return await self._database.read(question, *args, **kwargs)


@contextlib.contextmanager
def open_store(
    database: Database,
    *,
    now_us: Callable[[], int],
    clock: Callable[[], float] = time.monotonic,
    max_set_aside: int = MAX_SET_ASIDE,
    appended: OnAppend = lambda _result, _seconds: None,
) -> Iterator[Store]:
    """Opens the ledger in a database.

    Args:
        database: where it is kept.
        now_us: microseconds since 1970-01-01T00:00Z; only stamps what is set aside.
        clock: rising seconds.
        max_set_aside: rows of records that could not be stored; more are counted only.
        appended: told of each stored batch and how many seconds it took.
    """
    yield Store(database, now_us=now_us, clock=clock, max_set_aside=max_set_aside, appended=appended)


def _prepare_counters(connection: Connection) -> dict[str, int]:
    """Gives the counters, and writes those of a new ledger."""
    counters = {row.name: row.value for row in connection.execute(select(COUNTERS))}
    fresh = {name: 0 for name in (WAITING, ASIDE, OVERFLOW) if name not in counters}
    if _VERSION not in counters:
        fresh[_VERSION] = SCHEMA_VERSION
    if fresh:
        connection.execute(insert(COUNTERS), [{"name": n, "value": v} for n, v in fresh.items()])
    return counters | fresh
