"""What the ledger must know of a family: its target and its features. A family that is not known is counted plainly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from bentos import family as declared
from bentos.schema import Schema
from monitoring.ledger.tally import UNKNOWN_TARGET, TargetRange
from services.runtime.errors import NotFound


@dataclass(frozen=True, slots=True)
class Described:
    """A family's target and schema; the schema is None when the family is unknown."""

    target: TargetRange
    schema: Schema | None
    ranking_places: int = 0
    """Over how many places its rankings are measured; 0 when decisions of a unit are no ranking."""


Describe = Callable[[str], Described]
"""Gives what is known of the family of this name."""
UNKNOWN: Final = Described(UNKNOWN_TARGET, None)


@lru_cache(maxsize=256)
def describe(name: str) -> Described:
    """Describes a family of `bentos`."""
    try:
        family = declared.load(name)
    except NotFound:
        return UNKNOWN
    target = family.target
    binary = target.kind is declared.TargetKind.BINARY
    range_ = TargetRange(binary=binary, low=target.low, high=target.high)
    return Described(range_, family.schema, family.ranking_places)
