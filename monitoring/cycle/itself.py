"""What a cycle says of itself and of its database. Pure."""

from __future__ import annotations

from monitoring.alerts.conditions import Condition, Verdict, fitting
from monitoring.alerts.kinds import AlertType
from monitoring.cycle.health import DatabaseSeen


def own_conditions(database: DatabaseSeen, cycle_seconds: int) -> list[Condition]:
    """Gives the conditions of the database and of the cycle.

    Args:
        database: how it and the cycle did.
        cycle_seconds: how long it may take.
    """
    away = not (database.readable and database.writable)
    refused = "the hub's database refuses " + ("writes" if database.readable else "reads")
    late = database.seconds > cycle_seconds
    sentence = database.failure or f"a check cycle took {database.seconds:.1f} s, over its {cycle_seconds} s"
    return [
        Condition(
            type=AlertType.DATABASE_UNAVAILABLE,
            verdict=Verdict.HOLDS if away else Verdict.CLEAR,
            summary=refused if away else "",
        ),
        Condition(
            type=AlertType.MONITORING_FAILED,
            verdict=Verdict.HOLDS if database.failure or late else Verdict.CLEAR,
            summary=fitting(sentence) if database.failure or late else "",
        ),
    ]
