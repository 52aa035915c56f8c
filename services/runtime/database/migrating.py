"""Brings a database's schema up to date: numbered steps, each once, in one transaction.

The steps are alembic's: each file of `migrations/versions` has `revision`, `down_revision` and `upgrade()`, and the
table `alembic_version` names the newest one that was taken. Which steps there are is told by the files' names, so
alembic itself (0.3 s and 17 MB) is imported only when a step is due.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from types import ModuleType
from typing import Final

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, inspect, text

from services.runtime.database.connecting import DatabaseUnusable
from services.runtime.database.migrations import versions

VERSION: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""As alembic makes it."""
_FILE: Final = re.compile(r"v(\d{4})_[a-z0-9_]+")
_FIRST: Final = "0001"


def available() -> dict[str, str]:
    """Gives the modules of the steps by revision, oldest first."""
    names = (module.name for module in pkgutil.iter_modules(versions.__path__))
    found = {match[1]: name for name in names if (match := _FILE.fullmatch(name))}
    return dict(sorted(found.items()))


def step(revision: str) -> ModuleType:
    """Imports one step, and alembic with it."""
    return importlib.import_module(f"{versions.__name__}.{available()[revision]}")


def migrate(connection: Connection) -> None:
    """Takes the steps that are due, inside the caller's transaction.

    Raises:
        DatabaseUnusable: the schema is newer than this program, or older than any that it knows.
    """
    known = available()
    present = _present(connection)
    if present is not None and present not in known:
        raise DatabaseUnusable(
            f"the database has schema version {present} and this program knows up to {max(known)}: "
            "use the version of Turnout that wrote it"
        )
    due = [revision for revision in known if present is None or revision > present]
    if due:
        _take(connection, due)
        connection.execute(VERSION.delete())
        connection.execute(VERSION.insert().values(version_num=due[-1]))


def _take(connection: Connection, due: list[str]) -> None:
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    with Operations.context(MigrationContext.configure(connection)):
        for revision in due:
            step(revision).upgrade()


def _present(connection: Connection) -> str | None:
    """Gives the schema's revision, None for a database without tables; a ledger from before has the first one."""
    tables = inspect(connection)
    if tables.has_table(VERSION.name):
        revision: str | None = connection.scalar(VERSION.select())
        return revision
    VERSION.create(connection)
    if not tables.has_table("counters"):
        return None
    version = connection.scalar(text("SELECT value FROM counters WHERE name = 'schema_version'"))
    if version != 1:
        raise DatabaseUnusable(
            f"the ledger has schema version {version} and this program knows 1: "
            "use the version of Turnout that wrote it"
        )
    connection.execute(VERSION.insert().values(version_num=_FIRST))
    return _FIRST
