"""An open database: one thread that writes, a few that read, and nothing in between."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import structlog
from sqlalchemy import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from services.runtime.database import postgresql, sqlite
from services.runtime.database.connecting import READERS, Connected, DatabaseUnusable, Dialect
from services.runtime.database.migrating import migrate
from services.runtime.errors import DeadlineExceeded, Unavailable

READ_SECONDS: Final = 30.0
_P = ParamSpec("_P")
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class Database:
    """An open database. Made by `open_database`; its coroutines belong to one event loop."""

    def __init__(self, connected: Connected, *, read_seconds: float) -> None:
        self._connected = connected
        self._read_seconds = read_seconds
        self._refusing = False
        self._writing = ThreadPoolExecutor(1, "database-writer")
        self._reading = ThreadPoolExecutor(READERS, "database-reader")

    @property
    def dialect(self) -> Dialect:
        """Which kind of database it is."""
        return self._connected.dialect

    @property
    def name(self) -> str:
        """Path or URL, without the password."""
        return self._connected.name

    @property
    def generation(self) -> int:
        """Grows when the writer connected anew: what was remembered of the contents may be outdated."""
        return self._connected.generation()

    async def write(self, work: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Does work in one transaction, one at a time; returns when it is on stable storage.

        What the work raises undoes it. A caller that stops waiting does not: the work goes on.

        Raises:
            Unavailable: the database refused (full, read-only, away); the same work may be tried again.
        """
        return await self.exclusively(lambda: self.write_now(work, *args, **kwargs))

    async def exclusively(self, work: Callable[[], _T]) -> _T:
        """Does work, which may call `write_now`, in the writer's thread: nothing else is written meanwhile.

        A caller that stops waiting does not end it.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writing, work)

    def write_now(self, work: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Does the work of `write` in the calling thread; never call it from two at once."""
        try:
            with self._connected.writer.begin() as connection:
                result = work(connection, *args, **kwargs)
        except (SQLAlchemyError, DatabaseUnusable) as error:
            self._refused(error)
            raise Unavailable("", "the database cannot be written; nothing was stored, try again") from error
        if self._refusing:
            self._refusing = False
            _log.info("database writes again", database=self.name)
        return result

    async def read(
        self, question: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Answers a question from one unchanging state.

        Raises:
            DeadlineExceeded: it took longer than the database's limit (30 s).
            Unavailable: the database refused.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reading, lambda: self.read_now(question, *args, **kwargs))

    def read_now(self, question: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Does the work of `read` in the calling thread."""
        try:
            with (
                self._connected.readers.begin() as connection,
                self._connected.limited(connection, self._read_seconds),
            ):
                return question(connection, *args, **kwargs)
        except SQLAlchemyError as error:
            if isinstance(error, DBAPIError) and self._connected.interrupted(error.orig):
                message = f"the database needs over {self._read_seconds:.0f} s for this: ask for less"
                raise DeadlineExceeded("", message) from error
            raise Unavailable("", "the database cannot be read") from error

    def close(self) -> None:
        """Waits for what is under way; a SQLite file is left with an empty log."""
        self._writing.shutdown()
        self._reading.shutdown()
        with contextlib.suppress(SQLAlchemyError):
            self._connected.finish()

    def _refused(self, error: Exception) -> None:
        """Logs the first refusal of several: what is tried again each second must not fill the log."""
        if not self._refusing:
            self._refusing = True
            cause = getattr(error, "orig", None) or error
            _log.error("database cannot be written", database=self.name, error=type(cause).__name__, reason=str(cause))


@contextlib.contextmanager
def open_database(
    url: str | URL, *, clock: Callable[[], float] = time.monotonic, read_seconds: float = READ_SECONDS
) -> Iterator[Database]:
    """Opens a database for this process alone and brings its schema up to date.

    Args:
        url: `sqlite:///PATH` (the file is made when it is not there) or `postgresql+psycopg://USER@HOST/NAME`.
        clock: rising seconds, to limit reads.
        read_seconds: how long one question may take.

    Raises:
        DatabaseUnusable: it is in use by another hub, damaged, away, or a newer version wrote it.
    """
    with _connected(url, clock, read_seconds) as connected:
        try:
            with connected.writer.begin() as connection:
                migrate(connection)
        except SQLAlchemyError as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            message = f"{connected.name} is not a database that can be opened: {reason}"
            raise DatabaseUnusable(message) from error
        database = Database(connected, read_seconds=read_seconds)
        try:
            yield database
        finally:
            database.close()


def sqlite_url(path: Path) -> URL:
    """Gives the URL of a SQLite file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path))


def _connected(
    url: str | URL, clock: Callable[[], float], read_seconds: float
) -> contextlib.AbstractContextManager[Connected]:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The text itself stays out of the sentence: a password may stand in it.
        raise DatabaseUnusable("the database's URL cannot be read: use sqlite:///PATH or postgresql://…") from None
    match parsed.get_backend_name():
        case "sqlite" if parsed.database and parsed.database != ":memory:":
            return sqlite.connected(Path(parsed.database), clock=clock)
        case "postgresql":
            return postgresql.connected(parsed.set(drivername="postgresql+psycopg"), read_seconds=read_seconds)
        case other:
            message = f"a database is sqlite:///PATH or postgresql://USER@HOST/NAME, not {other}"
            raise DatabaseUnusable(message)
