"""What stands around a strategy: overrides of single units, a hold-out, and a ramp's stages."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from router.strategies.assignment import Assignment, Strategy
from router.strategies.buckets import HOLD_OUT, bucket

MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Overridden:
    """Named units get the arms that they are given; all others go on to `inner`."""

    choices: Mapping[str, Assignment]
    """By unit."""
    inner: Strategy

    def assign(
        self, *, unit_id: str, decision_id: str, tenant: str, region: str, at_unix_us: int, sequence: int
    ) -> Assignment:
        """Looks the unit up; see Strategy.assign."""
        return self.choices.get(unit_id) or self.inner.assign(
            unit_id=unit_id,
            decision_id=decision_id,
            tenant=tenant,
            region=region,
            at_unix_us=at_unix_us,
            sequence=sequence,
        )

    def stamped(self, digest: int) -> Overridden:
        """See Strategy.stamped."""
        choices = {unit: choice._replace(digest=digest) for unit, choice in self.choices.items()}
        return Overridden(choices, self.inner.stamped(digest))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Units in the first `buckets` of 10 000 get the champion; all others go on to `inner`."""

    key: bytes
    buckets: int
    champion: Assignment
    """For a held-out unit where the strategy would give another arm, or draws its arms."""
    agreeing: Assignment
    """For a held-out unit where the strategy, drawing nothing, gives the champion to everybody anyway."""
    inner: Strategy

    def assign(
        self, *, unit_id: str, decision_id: str, tenant: str, region: str, at_unix_us: int, sequence: int
    ) -> Assignment:
        """Looks at the unit's bucket; see Strategy.assign."""
        held = bucket(self.key, HOLD_OUT, tenant, unit_id, decision_id) < self.buckets
        if held and self.champion is self.agreeing:
            return self.champion
        chosen = self.inner.assign(
            unit_id=unit_id,
            decision_id=decision_id,
            tenant=tenant,
            region=region,
            at_unix_us=at_unix_us,
            sequence=sequence,
        )
        if not held:
            return chosen
        return self.agreeing if chosen.arm == self.champion.arm else self.champion

    def stamped(self, digest: int) -> HeldOut:
        """See Strategy.stamped."""
        champion = self.champion._replace(digest=digest)
        agreeing = champion if self.agreeing is self.champion else self.agreeing._replace(digest=digest)
        return replace(self, champion=champion, agreeing=agreeing, inner=self.inner.stamped(digest))


@dataclass(frozen=True, slots=True)
class Ramped:
    """The strategy changes at fixed instants."""

    starts: tuple[int, ...]
    """First second of each stage but the first, rising, since 1970-01-01T00:00Z."""
    stages: tuple[Strategy, ...]
    """One more than `starts`."""

    def assign(
        self, *, unit_id: str, decision_id: str, tenant: str, region: str, at_unix_us: int, sequence: int
    ) -> Assignment:
        """Goes by the stage that holds the instant; see Strategy.assign."""
        stage = self.stages[bisect_right(self.starts, at_unix_us // MICROSECONDS)]
        return stage.assign(
            unit_id=unit_id,
            decision_id=decision_id,
            tenant=tenant,
            region=region,
            at_unix_us=at_unix_us,
            sequence=sequence,
        )

    def stamped(self, digest: int) -> Ramped:
        """See Strategy.stamped."""
        return Ramped(self.starts, tuple(stage.stamped(digest) for stage in self.stages))
