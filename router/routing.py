"""The table that every prediction goes by: families, compiled experiments and pools, swapped as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bentos.family import RULES, Family
from router.backends.pool import Pool
from router.conditions import Looking
from router.strategies import Assignment, AssignmentReason, Hashed
from router.strategies.family import FamilyExperiments, Unevaluable
from services.runtime.errors import NotFound
from services.runtime.experiment import Experiment
from services.runtime.policy import Policy

DEFAULT_POLICY: Final = Policy()


@dataclass(frozen=True, slots=True)
class Route:
    """How one family is answered. Without an experiment the rules answer everything."""

    family: Family
    deadline_seconds: float
    experiments: FamilyExperiments | None
    pools: Mapping[str, Pool]
    """By variant; the rules have none."""
    policy: Policy = DEFAULT_POLICY
    critical: bool = False
    """Whether its calls are answered whatever the load."""

    @property
    def shadowed(self) -> bool:
        """Whether any of the experiments copies rows to shadows."""
        return self.experiments is not None and self.experiments.shadowed


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """An immutable picture of the whole configuration."""

    routes: Mapping[str, Route]
    critical: frozenset[bytes] = frozenset()
    """Names of the critical families, as they stand in messages."""

    @property
    def heeds_alerts(self) -> bool:
        """Whether any family's policy asks what alerts stand."""
        return any(route.policy.critical_alert == "rules" for route in self.routes.values())

    def ready(self) -> frozenset[tuple[str, str]]:
        """Gives the families and variants that could answer now, or would be started by the first call."""
        return frozenset(
            (family, variant)
            for family, route in self.routes.items()
            for variant, pool in route.pools.items()
            if pool.starts_when_called or pool.pick() is not None
        )

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
    """The round-robin positions of this router, one an experiment; exact under concurrency since nothing awaits."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def next(self, experiment: str) -> int:
        """Gives the next position, from 0, and leaves it there."""
        return self._next.get(experiment, 0)

    def take(self, experiment: str) -> int:
        """Gives the next position, from 0, and goes on."""
        position = self._next.get(experiment, 0)
        self._next[experiment] = position + 1
        return position

    def start_at(self, experiment: str, position: int) -> None:
        """Goes on where an earlier process of this router stopped."""
        self._next[experiment] = max(position, self._next.get(experiment, 0))


def nobody_hears(_: Experiment) -> None:
    """For those who need not know which conditions could not be evaluated."""


def choose(
    route: Route,
    rotation: Rotation,
    *,
    unit_id: str,
    decision_id: str,
    tenant: str,
    region: str,
    at_unix_us: int,
    vector: Sequence[float],
    attributes: Mapping[str, str],
    unevaluable: Unevaluable = nobody_hears,
) -> Assignment | None:
    """Assigns an arm; None when the family has no experiment.

    Args:
        route: The family's route.
        rotation: Positions of the round-robins; one is taken when the arm was chosen by it.
        unit_id: What stays assigned; empty when the decision is the unit.
        decision_id: The decision's id.
        tenant: Tenant, from the credential.
        region: Region of the switchback block.
        at_unix_us: The instant to assign for, in microseconds since 1970-01-01T00:00Z.
        vector: The validated row, for conditions.
        attributes: What conditions look at in the call's attributes.
        unevaluable: Hears the names of experiments whose condition could not be evaluated.
    """
    experiments = route.experiments
    if experiments is None:
        return None
    sole = experiments.sole
    if sole is not None and not sole.rotates:
        # What most families have: no search, no position, nothing to look at.
        return sole.strategy.assign(
            unit_id=unit_id,
            decision_id=decision_id,
            tenant=tenant,
            region=region,
            at_unix_us=at_unix_us,
            sequence=0,
        )
    chosen = experiments.assign(
        unit_id=unit_id,
        decision_id=decision_id,
        tenant=tenant,
        region=region,
        at_unix_us=at_unix_us,
        position=rotation.next,
        look=Looking(route.family.schema, vector, tenant, attributes) if experiments.conditional else None,
        unevaluable=unevaluable,
    )
    if chosen.reason is AssignmentReason.ROTATION:
        rotation.take(chosen.experiment)
    return chosen


def choose_all(
    route: Route,
    rotation: Rotation,
    *,
    unit_ids: Sequence[str],
    decision_ids: Sequence[str],
    tenant: str,
    regions: Sequence[str],
    at_unix_us: int,
    vectors: Sequence[Sequence[float]],
    attributes: Mapping[str, str],
    unevaluable: Unevaluable = nobody_hears,
) -> list[Assignment | None]:
    """Assigns an arm to each of many decisions of one tenant, as `choose` does one after the other."""
    sole = route.experiments.sole if route.experiments is not None else None
    if sole is not None and isinstance(sole.strategy, Hashed):
        return [*sole.strategy.assign_all(tenant, unit_ids, decision_ids)]
    return [
        choose(
            route,
            rotation,
            unit_id=unit_id,
            decision_id=decision_id,
            tenant=tenant,
            region=region,
            at_unix_us=at_unix_us,
            vector=vector,
            attributes=attributes,
            unevaluable=unevaluable,
        )
        for unit_id, decision_id, region, vector in zip(unit_ids, decision_ids, regions, vectors, strict=True)
    ]


def pool_of(route: Route, variant: str) -> Pool | None:
    """Gives the pool of a variant; None for the rules, which are answered in process."""
    return None if variant == RULES else route.pools.get(variant)
