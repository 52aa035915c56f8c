"""Rows by (tenant, decision id)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Table, delete, select

from monitoring.ledger.rows import Key

_CHUNK: Final = 500


def find(connection: Connection, table: Table, keys: Iterable[Key], columns: Sequence[str] = ()) -> list[Any]:
    """Gives the rows of a table that stand under these keys."""
    found: list[Any] = []
    by_tenant: dict[str, list[str]] = {}
    for tenant, decision_id in keys:
        by_tenant.setdefault(tenant, []).append(decision_id)
    wanted = [table.c.tenant, table.c.decision_id, *(table.c[name] for name in columns)] if columns else [table]
    for tenant, ids in by_tenant.items():
        for start in range(0, len(ids), _CHUNK):
            chosen = table.c.decision_id.in_(ids[start : start + _CHUNK])
            found += connection.execute(select(*wanted).where(table.c.tenant == tenant, chosen)).all()
    return found


def delete_row(connection: Connection, table: Table, key: Key) -> None:
    """Removes the row that stands under a key."""
    connection.execute(delete(table).where(table.c.tenant == key[0], table.c.decision_id == key[1]))
