"""All that is particular to PostgreSQL: connections that give up in time, and one hub that writes.

The writer's session holds an advisory lock of the database. The lock and the right to write are the same connection,
so a hub that lost its connection has lost both: it cannot write until a new connection gets the lock, and it gets it
only when the server knows that the old session is dead and nobody else took over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from psycopg import OperationalError
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool

from services.runtime.database.connecting import READERS, Connected, DatabaseUnusable

WRITE_SECONDS: Final = 60
"""Longest statement of a writer; a hub that hangs longer lets others have their turn."""
_LOCK: Final = 0x7475726E6F7574
"""Key of the advisory lock: "turnout" in ASCII."""
_CONNECT: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "turnout-hub",
}
LOCK_SECONDS: Final = 2
"""How long a new hub waits for the lock: the server may see that the last one has gone a moment after it went."""
_LOCKED: Final = "55P03"
"""SQLSTATE of a lock that was not got in time."""
_CANCELLED: Final = "57014"
"""SQLSTATE of a statement that was cancelled, here always by its timeout."""


class _InUse(DatabaseUnusable):
    """Another session holds the lock."""


@contextlib.contextmanager
def connected(url: URL, *, read_seconds: float) -> Iterator[Connected]:
    """Gives the engines of a database that this process alone writes.

    Raises:
        DatabaseUnusable: another hub writes it.
    """
    name = url.render_as_string(hide_password=True)
    sessions = 0

    def lock(driver: Any, _: Any) -> None:
        nonlocal sessions
        try:
            with driver.cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
                cursor.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            driver.commit()
        except OperationalError as error:
            driver.close()
            if getattr(error, "sqlstate", None) != _LOCKED:
                raise
            raise _InUse(f"{name} is in use by another hub: stop that one first") from None
        sessions += 1

    writer = _engine(url, 1, f"-c statement_timeout={WRITE_SECONDS}s -c lock_timeout=30s -c jit=off")
    event.listen(writer, "connect", lock)
    limit = max(round(read_seconds * 1000), 1)
    readers = _engine(
        url,
        READERS,
        f"-c statement_timeout={limit} -c default_transaction_read_only=on -c jit=off",
        isolation_level="REPEATABLE READ",
    )
    try:
        yield Connected(
            dialect="postgresql",
            name=name,
            writer=writer,
            readers=readers,
            limited=_unlimited,
            interrupted=lambda error: getattr(error, "sqlstate", None) == _CANCELLED,
            finish=lambda: None,
            generation=lambda: sessions,
        )
    finally:
        readers.dispose()
        writer.dispose()


def _engine(url: URL, size: int, settings: str, **options: Any) -> Engine:
    return create_engine(
        url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        # A connection that died while nobody used it is noticed and renewed before a transaction begins.
        pool_pre_ping=True,
        connect_args={**_CONNECT, "options": settings},
        **options,
    )


def _unlimited(_connection: Connection, _seconds: float) -> contextlib.AbstractContextManager[None]:
    """The server itself ends long statements: see `statement_timeout` of the readers."""
    return contextlib.nullcontext()
