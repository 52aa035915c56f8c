"""The ledger's store: one thread that writes, a few that read, and nothing in between."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, insert, select
from sqlalchemy.exc import DatabaseError, OperationalError

from monitoring.ledger.records import read_batch
from monitoring.ledger.sqlite import LedgerUnusable, finish, open_readers, open_writer, sole_owner, time_limit
from monitoring.ledger.tables import COUNTERS, METADATA, SCHEMA_VERSION
from monitoring.ledger.writing import ASIDE, OVERFLOW, WAITING, Appended, Writing
from services.runtime.errors import DeadlineExceeded, Unavailable

READERS: Final = 2
MAX_SET_ASIDE: Final = 10_000
READ_SECONDS: Final = 30.0
OnAppend = Callable[[Appended, float], None]
_VERSION: Final = "schema_version"
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Store:
    """An open ledger. Made by `open_store`; its methods may be called from one event loop."""

    def __init__(
        self,
        writer: Engine,
        readers: Engine,
        *,
        now_us: Callable[[], int],
        clock: Callable[[], float],
        max_set_aside: int,
        appended: OnAppend,
    ) -> None:
        self._appended = appended
        self._writer = writer
        self._readers = readers
        self._now_us = now_us
        self._clock = clock
        self._max_set_aside = max_set_aside
        self._counters = _prepare_tables(writer)
        self._writing = ThreadPoolExecutor(1, "ledger-writer")
        self._reading = ThreadPoolExecutor(READERS, "ledger-reader")

    async def append(self, records: Sequence[bytes], router: str) -> Appended:
        """Stores serialized JournalRecords; returns when they are on stable storage.

        A caller that stops waiting does not undo the batch: repeating it is harmless.

        Raises:
            Unavailable: the database refused (disk full, file damaged); nothing of the batch was stored.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writing, self.append_now, records, router)

    def append_now(self, records: Sequence[bytes], router: str) -> Appended:
        """Does the work of `append` in the calling thread; never call it from two at once."""
        began = self._clock()
        batch = read_batch(records)
        counters = dict(self._counters)
        try:
            with self._writer.begin() as connection:
                writing = Writing(
                    connection, counters, router=router, now_us=self._now_us(), max_set_aside=self._max_set_aside
                )
                result = writing.store(batch)
        except DatabaseError as error:
            raise Unavailable("", "the ledger cannot write; nothing of this batch was stored") from error
        self._counters = counters
        self._appended(result, self._clock() - began)
        return result

    async def read(
        self, question: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Answers a question of `monitoring.ledger.reading` from one unchanging state.

        Raises:
            DeadlineExceeded: it took longer than READ_SECONDS.
            Unavailable: the database refused.
        """

        def answer() -> _T:
            with self._readers.begin() as connection, time_limit(connection, self._clock, READ_SECONDS):
                return question(connection, *args, **kwargs)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, answer)
        except OperationalError as error:
            if "interrupted" in str(error.orig):
                raise DeadlineExceeded(
                    "", f"the ledger needs over {READ_SECONDS:.0f} s for this: ask for less"
                ) from error
            raise Unavailable("", "the ledger cannot be read") from error

    def close(self) -> None:
        """Waits for what is under way and closes the file with an empty log."""
        self._writing.shutdown()
        self._reading.shutdown()
        self._readers.dispose()
        finish(self._writer)
        self._writer.dispose()


@contextlib.contextmanager
def open_store(
    path: Path,
    *,
    now_us: Callable[[], int],
    clock: Callable[[], float] = time.monotonic,
    max_set_aside: int = MAX_SET_ASIDE,
    appended: OnAppend = lambda _result, _seconds: None,
) -> Iterator[Store]:
    """Opens the ledger in `path`, made when it is not there, for this process alone.

    Args:
        path: the SQLite file.
        now_us: microseconds since 1970-01-01T00:00Z; only stamps what is set aside.
        clock: rising seconds, to limit reads.
        max_set_aside: rows of records that could not be stored; more are counted only.
        appended: told of each stored batch and how many seconds it took, in the writer's thread.

    Raises:
        LedgerUnusable: another process holds it, it is damaged, or a newer version wrote it.
    """
    with sole_owner(path), contextlib.ExitStack() as stack:
        try:
            writer = open_writer(path)
            stack.callback(writer.dispose)
            readers = open_readers(path, READERS)
            store = Store(writer, readers, now_us=now_us, clock=clock, max_set_aside=max_set_aside, appended=appended)
        except DatabaseError as error:
            raise LedgerUnusable(f"{path} is not a ledger that can be opened: {error.orig}") from error
        stack.callback(store.close)
        yield store


def _prepare_tables(writer: Engine) -> dict[str, int]:
    """Makes the tables of a new ledger and gives the counters; refuses a ledger of another version."""
    with writer.begin() as connection:
        METADATA.create_all(connection)
        counters = {row.name: row.value for row in connection.execute(select(COUNTERS))}
        if not counters:
            counters = {_VERSION: SCHEMA_VERSION, WAITING: 0, ASIDE: 0, OVERFLOW: 0}
            connection.execute(insert(COUNTERS), [{"name": n, "value": v} for n, v in counters.items()])
    if counters[_VERSION] != SCHEMA_VERSION:
        raise LedgerUnusable(
            f"the ledger has schema version {counters[_VERSION]} and this program knows {SCHEMA_VERSION}: "
            "use the version of Turnout that wrote it"
        )
    return counters
