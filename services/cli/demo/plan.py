"""What a demo run does, and what it found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FAMILY: Final = "dispatch"
DEADLINE_SECONDS: Final = 0.5
RATE: Final = 200.0
"""Predictions a second at most: two cores stay responsive beside eight processes."""
RECOVERY_SECONDS: Final = 60.0
LEDGER_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run: how long traffic flows, from which past it learns, and the seed of everything random."""

    seconds: float
    seed: int
    calls: int
    """Simulated calls of the past; with `data`, records of the past to train on at most."""
    data: Path | None
    city: Path | None
    variants: tuple[str, ...] | None
    """Only these variants; None means all of the family."""


@dataclass(frozen=True, slots=True)
class SplitChange:
    """One change of the strategy while traffic flowed; times in seconds, `at` since the traffic's start."""

    at: float
    before: str
    after: str
    revision: int
    applied_seconds: float
    """From the operator's call until the first answer under the new revision."""


@dataclass(slots=True)
class Events:
    """What was done to the platform while traffic flowed."""

    split_changes: list[SplitChange] = field(default_factory=list)
    killed: str = ""
    """Model server that was killed."""
    recovered_seconds: float | None = None
    """From the kill until that model server answered callers again."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What the ledger says after the run. `failures` is empty when everything is as it must be."""

    arms: dict[str, dict[str, Any]]
    decisions: int
    outcomes_joined: int
    replay_identical: bool
    failures: tuple[str, ...]
