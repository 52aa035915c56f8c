"""How long what is kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long raw rows and windows are kept. Windows of days are kept for ever."""

    raw_days: int = 90
    """Days after which a decision and its outcome are removed; at least 30, for that long outcomes are taken."""
    max_decisions: int = 0
    """Decisions that are kept at most; the oldest go first, even those that wait for outcomes. 0: no bound."""
    max_bytes: int = 0
    """About how many bytes decisions take at most, likewise. 0: no bound."""
    minute_days: int = 2
    hour_days: int = 90
    feature_minute_hours: int = 6
    """Features have many and large sketches, so their windows of minutes are kept for a shorter time."""
