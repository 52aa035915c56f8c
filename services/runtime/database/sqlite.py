"""All that is particular to SQLite: how connections are opened and what they promise.

One connection writes and checkpoints; readers are opened read-only and cannot checkpoint. So the race between a
checkpoint and a writer on two connections (sqlite.org/wal.html, "WAL-reset bug", fixed in 3.51.3) cannot happen
with any SQLite that Python brings along.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool, StaticPool

from services.runtime.database.connecting import READERS, Connected, DatabaseUnusable

CHECKPOINT_PAGES: Final = 4000
"""The writer moves the log into the file each time it holds this many pages (16 MB)."""
_WRITER_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    # Each commit waits until the log is on stable storage: an answer promises that.
    "PRAGMA synchronous = FULL",
    f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}",
    "PRAGMA journal_size_limit = 67108864",
    # An outcome looks up its decision anywhere in the last days: with 16 MiB it cost a fifth to a third more.
    "PRAGMA cache_size = -65536",
    "PRAGMA temp_store = MEMORY",
)
_READER_PRAGMAS: Final = ("PRAGMA query_only = ON", "PRAGMA cache_size = -8192", "PRAGMA busy_timeout = 5000")
_STEPS_BETWEEN_LOOKS: Final = 20_000
"""Steps of SQLite's machine between two looks at the clock: a fraction of a millisecond."""


@contextlib.contextmanager
def connected(path: Path, *, clock: Callable[[], float]) -> Iterator[Connected]:
    """Holds a file for this process alone and gives its engines.

    Raises:
        DatabaseUnusable: another process holds it, or the folder cannot be written.
    """
    with sole_owner(path):
        writer = _open_writer(path)
        readers = _open_readers(path)

        def limited(connection: Connection, seconds: float) -> contextlib.AbstractContextManager[None]:
            return _time_limit(connection, clock, seconds)

        try:
            yield Connected(
                dialect="sqlite",
                name=str(path),
                writer=writer,
                readers=readers,
                limited=limited,
                interrupted=lambda error: "interrupted" in str(error),
                finish=lambda: run_outside_transaction(writer, "PRAGMA wal_checkpoint(TRUNCATE)"),
                generation=lambda: 0,
            )
        finally:
            readers.dispose()
            writer.dispose()


def _open_writer(path: Path) -> Engine:
    """Opens the one connection that writes; it may move between threads but is used by one at a time."""
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(path, check_same_thread=False),
        poolclass=StaticPool,
    )
    _prepare(engine, _WRITER_PRAGMAS, "BEGIN IMMEDIATE")
    return engine


def _open_readers(path: Path) -> Engine:
    """Opens read-only connections; each transaction sees one unchanging state."""
    address = f"file:{quote(str(path))}?mode=ro"
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(address, uri=True, check_same_thread=False),
        poolclass=QueuePool,
        pool_size=READERS,
        max_overflow=0,
    )
    _prepare(engine, _READER_PRAGMAS, "BEGIN")
    return engine


def _prepare(engine: Engine, pragmas: Sequence[str], begin: str) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(driver: Any, _: Any) -> None:
        # The driver's own habit of opening transactions would break savepoints: transactions are opened below.
        driver.isolation_level = None
        cursor = driver.cursor()
        for pragma in pragmas:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def run_outside_transaction(engine: Engine, statement: str) -> None:
    """Runs a statement that SQLite refuses inside a transaction, or that belongs to the connection."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
    finally:
        connection.close()


@contextlib.contextmanager
def _time_limit(connection: Connection, clock: Callable[[], float], seconds: float) -> Iterator[None]:
    end = clock() + seconds
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: clock() > end, _STEPS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)


@contextlib.contextmanager
def sole_owner(path: Path) -> Iterator[None]:
    """Holds a file for this process alone; the system lets go of it when the process ends in any way.

    Raises:
        DatabaseUnusable: another process holds it, or the folder cannot be written.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatabaseUnusable(f"{path.parent} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DatabaseUnusable(f"{path} is in use by another process: stop that hub first") from error
        yield
    finally:
        os.close(descriptor)
