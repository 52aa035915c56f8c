"""A validated row on its way to its answer, and what is worked out from calls before any arm is chosen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from bentos.family import RULES, RulesAnswer
from router.answers import NO_ASSIGNMENT
from router.recent import Entry
from router.resilience.budget import LONGEST_DEADLINE_SECONDS
from router.routing import Route
from services.runtime.errors import DeadlineExceeded
from turnout.v1 import prediction_pb2

_NO_ANSWER: Final = RulesAnswer(math.nan, 0.0, ())
NO_ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(slots=True)
class Prepared:
    """One validated row. What `admit` fills in stands at the end."""

    route: Route
    tenant: str
    decision_id: str
    unit_id: str
    region: str
    packed: bytes
    vector: tuple[float, ...]
    digest: bytes
    arrived_ns: int
    time_left: float
    attributes: Mapping[str, str] = field(default_factory=lambda: NO_ATTRIBUTES)
    """Those that conditions of the family's experiments look at."""
    variant: str = RULES
    # Shared by all rows without an experiment, and never changed.
    assignment: prediction_pb2.Assignment = field(default_factory=lambda: NO_ASSIGNMENT)
    rules: RulesAnswer = _NO_ANSWER
    at_unix_us: int = 0
    repeats: Entry | None = None
    """Set when a caller's id was seen before: the first call's answer is this one's too."""


def deadline_of(route: Route, time_left: float | None) -> float:
    """Gives the seconds that a call may take; None is a caller who set no deadline.

    Raises:
        DeadlineExceeded: no time is left.
    """
    seconds = route.deadline_seconds if time_left is None else min(time_left, LONGEST_DEADLINE_SECONDS)
    if seconds <= 0:
        raise DeadlineExceeded("timeout", "the call arrived after its deadline; give it more time")
    return seconds


def groups(rows: Iterable[Prepared]) -> list[list[Prepared]]:
    """Gathers rows that can travel to their arm together, keeping their order."""
    gathered: dict[tuple[str, str], list[Prepared]] = {}
    for row in rows:
        gathered.setdefault((row.route.family.name, row.variant), []).append(row)
    return list(gathered.values())


def digest_of(family: str, unit_id: str, region: str, packed: bytes) -> bytes:
    """Gives the digest of a decision's body, by which a repeated call is known."""
    text = f"{family}\0{len(unit_id)}\0{unit_id}\0{region}\0".encode()
    return hashlib.sha256(text + packed).digest()[:16]
