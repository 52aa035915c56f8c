"""Many rows at once, without a mapping for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, insert
from sqlalchemy.exc import DBAPIError

_FEW = 20
"""Up to so many rows a COPY of PostgreSQL costs more than it saves."""


def bulk_insert(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Inserts tuples in the order of the table's columns: all of them or, with an exception, none.

    Raises:
        sqlalchemy.exc.IntegrityError: a row breaks a constraint of the table.
    """
    if not rows:
        return
    if connection.dialect.name == "postgresql" and len(rows) > _FEW:
        _copy(connection, table, rows)
        return
    statement = str(insert(table).compile(dialect=connection.dialect))
    if connection.dialect.name == "postgresql":
        names = [column.name for column in table.columns]
        mappings = [dict(zip(names, row, strict=True)) for row in rows]
        connection.execute(insert(table), mappings)
        return
    connection.exec_driver_sql(statement, list(rows))


def _copy(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Streams the rows in PostgreSQL's own binary form."""
    preparer = connection.dialect.identifier_preparer
    columns = ", ".join(preparer.quote(column.name) for column in table.columns)
    types = [_PG_TYPES[type(column.type).__name__] for column in table.columns]
    statement = f"COPY {preparer.format_table(table)} ({columns}) FROM STDIN (FORMAT BINARY)"
    driver: Any = connection.connection.driver_connection
    errors = connection.dialect.loaded_dbapi
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(types)
            write = copy.write_row
            for row in rows:
                write(row)
    except errors.Error as error:
        # As SQLAlchemy itself would raise it, so that callers know one kind of error.
        raised = DBAPIError.instance(
            statement,
            None,
            error,
            errors.Error,
            dialect=connection.dialect,
            connection_invalidated=connection.dialect.is_disconnect(error, driver, None),
        )
        if getattr(raised, "connection_invalidated", False):
            connection.invalidate(error)
        raise raised from error


_PG_TYPES = {
    "Text": "text",
    "BigInteger": "int8",
    "Integer": "int4",
    "Double": "float8",
    "LargeBinary": "bytea",
    "Boolean": "bool",
}
