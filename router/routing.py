"""The table that every prediction goes by: families, compiled experiments and pools, swapped as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bentos.family import RULES, Family
from router.backends.pool import Pool
from router.strategies import Assignment, Hashed, Snapshot, assign
from services.runtime.errors import NotFound


@dataclass(frozen=True, slots=True)
class Route:
    """How one family is answered. Without an experiment the rules answer everything."""

    family: Family
    deadline_seconds: float
    experiment: Snapshot | None
    pools: Mapping[str, Pool]
    """By variant; the rules have none."""


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """An immutable picture of the whole configuration."""

    routes: Mapping[str, Route]

    def route(self, family: str) -> Route:
        """Gives a family's route.

        Raises:
            NotFound: the family is not served here.
        """
        route = self.routes.get(family)
        if route is None:
            served = ", ".join(sorted(self.routes)) or "none"
            raise NotFound("family", f"family {family[:64]!r} is not served; served are: {served}")
        return route


class Rotation:
    """The round-robin positions of this router, one a family; exact under concurrency since nothing awaits here."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def take(self, family: str) -> int:
        """Gives the next position, from 0."""
        position = self._next.get(family, 0)
        self._next[family] = position + 1
        return position

    def start_at(self, family: str, position: int) -> None:
        """Goes on where an earlier process of this router stopped."""
        self._next[family] = max(position, self._next.get(family, 0))


def choose(
    route: Route,
    rotation: Rotation,
    *,
    unit_id: str,
    decision_id: str,
    tenant: str,
    region: str,
    at_unix_us: int,
) -> Assignment | None:
    """Assigns an arm; None when the family has no experiment."""
    snapshot = route.experiment
    if snapshot is None:
        return None
    sequence = rotation.take(route.family.name) if snapshot.rotates else 0
    return assign(
        snapshot,
        unit_id=unit_id,
        decision_id=decision_id,
        tenant=tenant,
        region=region,
        at_unix_us=at_unix_us,
        sequence=sequence,
    )


def choose_all(
    route: Route,
    rotation: Rotation,
    *,
    unit_ids: Sequence[str],
    decision_ids: Sequence[str],
    tenant: str,
    regions: Sequence[str],
    at_unix_us: int,
) -> list[Assignment | None]:
    """Assigns an arm to each of many decisions of one tenant, as `choose` does one after the other."""
    if route.experiment is not None and isinstance(route.experiment.strategy, Hashed):
        return [*route.experiment.strategy.assign_all(tenant, unit_ids, decision_ids)]
    return [
        choose(
            route,
            rotation,
            unit_id=unit_id,
            decision_id=decision_id,
            tenant=tenant,
            region=region,
            at_unix_us=at_unix_us,
        )
        for unit_id, decision_id, region in zip(unit_ids, decision_ids, regions, strict=True)
    ]


def pool_of(route: Route, variant: str) -> Pool | None:
    """Gives the pool of a variant; None for the rules, which are answered in process."""
    return None if variant == RULES else route.pools.get(variant)
