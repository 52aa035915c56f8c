"""Numbers that move in the same transaction as the rows which they count."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, update

from monitoring.ledger.tables import COUNTERS

WAITING: Final = "outcomes_waiting"
ASIDE: Final = "set_aside"
OVERFLOW: Final = "set_aside_overflow"
HELD: Final = "decisions_held"
HELD_BYTES: Final = "decisions_held_bytes"
"""Of decisions and of the answers of shadows to them."""
SHADOW_ANSWERS: Final = "shadow_answers_held"
PRUNED_UNTIL: Final = "pruned_until_us"
"""Decisions up to this instant are gone; one that comes now is set aside, since it may have been counted before."""
ROW_BYTES: Final = 300
"""What a decision's row and its places in the indexes take beside the record, about."""


def write_counters(connection: Connection, before: dict[str, int], after: dict[str, int]) -> None:
    """Writes the counters that moved."""
    changed = [{"b_name": name, "b_value": value} for name, value in after.items() if before[name] != value]
    if changed:
        by_name = update(COUNTERS).where(COUNTERS.c.name == bindparam("b_name"))
        connection.execute(by_name.values(value=bindparam("b_value")), changed)
