"""Where the windows of minutes, hours and days begin and end, kept among the counters.

Totals are few and small, so all their windows are written as decisions come. Features have many and large sketches:
they are written by the minute, and hours and days are added up from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from monitoring.ledger.levels import DAY_US, END_US, HOUR_US, Levels, initial
from monitoring.ledger.retention import Retention

MINUTES_FROM: Final = "minutes_from_us"
FEATURE_MINUTES_FROM: Final = "feature_minutes_from_us"
HOURS_FROM: Final = "hours_from_us"
HOURS_UNTIL: Final = "feature_hours_until_us"
DAYS_UNTIL: Final = "feature_days_until_us"


def first_watermarks(now_us: int, retention: Retention) -> dict[str, int]:
    """Gives the counters of a new ledger."""
    levels = initial(now_us, minutes_us=retention.minute_days * DAY_US, hours_us=retention.hour_days * DAY_US)
    features = initial(now_us, minutes_us=retention.feature_minute_hours * HOUR_US, hours_us=0)
    return {
        MINUTES_FROM: levels.minutes_from,
        FEATURE_MINUTES_FROM: min(features.minutes_from, levels.hours_until),
        HOURS_FROM: levels.hours_from,
        HOURS_UNTIL: levels.hours_until,
        DAYS_UNTIL: levels.days_until,
    }


def levels_of(counters: Mapping[str, int]) -> Levels:
    """Gives the levels of the totals."""
    return Levels(
        minutes_from=counters[MINUTES_FROM],
        hours_from=counters[HOURS_FROM],
        hours_until=END_US,
        days_until=END_US,
    )


def feature_levels_of(counters: Mapping[str, int]) -> Levels:
    """Gives the levels of the features, whose minutes are kept for a shorter time."""
    return replace(
        levels_of(counters),
        minutes_from=counters[FEATURE_MINUTES_FROM],
        hours_until=counters[HOURS_UNTIL],
        days_until=counters[DAYS_UNTIL],
    )
