"""What a backend must serve, what it says that it serves, and what becomes of a call to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from router.resilience.validity import Bounds


class Failure(Enum):
    """Why a call on a link was not answered."""

    UNAVAILABLE = "unavailable"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    ERROR = "error"
    INVALID = "invalid"
    """The answer has another shape than one float32 a row."""
    OVERLOADED = "overloaded"


Values = tuple[float, ...]
Result = Values | Failure


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the server at the other end must serve, so that a wrong address never answers for a family."""

    family: str
    schema_digest: int
    row_bytes: int
    """Size of a packed row."""
    low: float = -math.inf
    """Smallest answer that may be used."""
    high: float = math.inf
    """Largest answer that may be used."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the server at the other end says that it serves."""

    variant: str
    version: str
    outputs: int
    bounds: Bounds | None
    """What the variant was trained on; None when its bento does not say."""
