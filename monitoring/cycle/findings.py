"""What one cycle found, and what it saw. Plain values, so that all that follows from them is pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from monitoring.drift.results import DriftResult
from monitoring.ledger.aggregates import Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One test's result and whose it is."""

    family: str
    result: DriftResult
    experiment: str = ""
    arm: str = ""
    """Empty where the test is of a variant, whatever the arm."""
    variant: str = ""
    online: bool = True
    """Whether it is an online monitor's, whose windows are numbers of decisions; else windows are of time."""
    since_us: int = 0
    """Online: assignment of the first decision of the run, and of the last one."""
    until_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmTraffic:
    """What one arm did in the cycle's window."""

    experiment: str
    arm: str
    totals: Totals
    """Of all its decisions, whoever answered them."""
    confidence: Any
    """KLL sketch of how sure the arm's own model was, of what that model answered only; empty where rules answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySeen:
    """What a cycle saw of a family."""

    family: str
    window_us: tuple[int, int]
    look: int = 1
    """Number of this look among those at which there was anything, from 1: its share of the false-alarm rate."""
    ever: bool = True
    """Whether the ledger has, or had, any decision of it."""
    arms: tuple[ArmTraffic, ...] = ()
    labelled: Mapping[tuple[str, str, str], Totals] = field(default_factory=dict)
    """Totals of the quality window by experiment, arm and variant that served."""
    findings: tuple[Finding, ...] = ()
