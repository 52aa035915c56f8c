"""Instants and lengths of time as people read them. Pure: what time it is now is an argument."""

from __future__ import annotations

from datetime import datetime
from typing import Final

_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
_SHORT: Final = 10.0
"""Lengths under so many seconds are shown with a fraction."""


def utc(at: str) -> str:
    """Gives an instant in ISO 8601, of UTC, as "2026-01-31 08:00:05 UTC"; empty for an empty one."""
    return f"{clock(at)} UTC" if at else ""


def clock(at: str) -> str:
    """Gives the same without its zone, where a heading says which it is."""
    return at.replace("T", " ").removesuffix("+00:00")


def seconds_since(at: str, now: float) -> float:
    """Gives the seconds from an instant in ISO 8601 until `now` (seconds since 1970); negative for one to come."""
    return now - datetime.fromisoformat(at).timestamp()


def length(seconds: float) -> str:
    """Gives a length of time in its two largest units: 0.25 s, 48 s, 4 min 30 s, 2 h, 3 d 4 h."""
    if 0 < seconds < _SHORT and seconds != int(seconds):
        return f"{seconds:.2f} s"
    left = round(seconds)
    parts: list[tuple[int, str]] = []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count or (parts and len(parts) < 2):
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count) or "0 s"


def ago(at: str, now: float) -> str:
    """Gives when something was or will be, from now: "12 s ago", "in 4 min 30 s", "now"."""
    passed = round(seconds_since(at, now))
    if passed == 0:
        return "now"
    return f"{length(passed)} ago" if passed > 0 else f"in {length(-passed)}"
