"""Lengths of time and moments as people type them: 90, 90s, 15m, 1h, 2d, 2026-01-31T08:00."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from services.runtime.errors import InvalidArgument

_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(option: str, text: str) -> int:
    """Gives whole seconds.

    Raises:
        InvalidArgument: names the option.
    """
    found = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip())
    if found is None:
        raise InvalidArgument(
            option, f"{option} must be a length of time such as 90s, 15m, 1h or 2d, not {text[:40]!r}"
        )
    return int(found[1]) * _SECONDS[found[2]]


def instant(option: str, text: str, *, now_us: int) -> int:
    """Gives microseconds since 1970-01-01T00:00Z of a moment (without a zone: UTC), or of a length of time ago.

    Raises:
        InvalidArgument: names the option.
    """
    if re.fullmatch(r"\d{1,9}[smhd]", text.strip()):
        return now_us - seconds(option, text) * 1_000_000
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as error:
        message = f"{option} must be a moment such as 2026-01-31T08:00 or a length of time such as 2h"
        raise InvalidArgument(option, f"{message}, not {text[:40]!r}") from error
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e6)


def time_of_day(option: str, text: str) -> int:
    """Gives the seconds after midnight of a time such as 06:30.

    Raises:
        InvalidArgument: names the option.
    """
    found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip())
    if found is None:
        raise InvalidArgument(option, f"{option} must name times such as 06:30, not {text[:40]!r}")
    return int(found[1]) * 3600 + int(found[2]) * 60
