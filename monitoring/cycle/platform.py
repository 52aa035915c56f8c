"""What the cycle must know of the running platform and cannot read from the ledger. The hub tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a variant was trained on, as its manifest says."""

    bounds: Mapping[str, tuple[float, float]]
    """By feature the values between which 99.8 % of the training rows lay; infinite where nobody says."""
    rows: int = 0
    since_s: float = 0.0
    """Instants of the oldest and of the newest of those rows, in seconds since 1970; 0 where nobody says."""
    until_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A variant that turnout.yaml serves."""

    family: str
    variant: str
    trained_at_us: int | None
    """When it was trained, by its manifest; None when nobody says."""
    ready: bool | None
    """Whether at least one connected router can reach it; None when no router has told."""
    training: Training | None = None
    """None when nobody says."""
    sleeps: bool = False
    """Whether having no backend is usual for it (scale to zero)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """An experiment that runs, by what its arms should get."""

    family: str
    experiment: str
    revision: int
    weights: Mapping[str, float] | None
    """None where counts of units do not follow weights: switchback blocks, ramps under way, paused, concluded."""


@dataclass(frozen=True, slots=True)
class Platform:
    """The platform as it is now."""

    families: tuple[str, ...] = ()
    """Families of turnout.yaml."""
    served: tuple[Served, ...] = ()
    splits: tuple[Split, ...] = ()

    def trained(self, family: str) -> dict[str, Training]:
        """Gives what the variants of a family were trained on, as far as somebody says."""
        return {one.variant: one.training for one in self.served if one.family == family and one.training is not None}
