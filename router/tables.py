"""Builds routing tables from configurations, keeping the links that both have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from bentos.family import Family
from bentos.family import load as load_family
from router.backends.guard import GuardSettings
from router.backends.open_inference import Remote
from router.backends.pool import Pool
from router.backends.results import Expectation
from router.resilience.breaker import BreakerSettings
from router.resilience.budget import LONGEST_DEADLINE_SECONDS
from router.resilience.limit import LimitSettings
from router.resilience.validity import valid_range
from router.routing import Route, RoutingTable
from router.strategies.family import FamilyExperiments
from services.runtime.config import Config, ConfigError, Variant
from services.runtime.errors import NotFound
from services.runtime.home import Home
from services.runtime.policy import Policy


class TableBuilder:
    """Owns the pools: a new table takes over those whose addresses did not change."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop, jitter: Callable[[], float]) -> None:
        self._loop = loop
        self._jitter = jitter
        self._pools: dict[tuple[str, str], Pool] = {}
        self._retiring: dict[Pool, asyncio.Task[None]] = {}

    def build(self, config: Config, experiments: Mapping[str, FamilyExperiments]) -> tuple[RoutingTable, list[Pool]]:
        """Gives the table of a configuration, and the pools that it no longer needs; `retire` those after the swap.

        Args:
            config: families and addresses.
            experiments: by family; those of the configuration itself take no part.

        Raises:
            ConfigError: a family is not declared in this program.
        """
        families = {name: _family(name) for name in config.families}
        home = Home(config.home)
        pools: dict[tuple[str, str], Pool] = {}
        for name, settings in config.families.items():
            for variant, where in settings.variants.items():
                addresses = variant_addresses(home, name, variant, where)
                pools[(name, variant)] = self._pool(families[name], variant, addresses, settings.policy, where)
        retired = [pool for key, pool in self._pools.items() if pools.get(key) is not pool]
        self._pools = pools
        routes = {
            name: Route(
                family=families[name],
                deadline_seconds=settings.deadline_ms / 1000,
                experiments=experiments.get(name),
                pools={variant: pool for (family, variant), pool in pools.items() if family == name},
                policy=settings.policy,
                critical=settings.critical,
            )
            for name, settings in config.families.items()
        }
        critical = frozenset(name.encode() for name, settings in config.families.items() if settings.critical)
        return RoutingTable(routes, critical), retired

    def _pool(self, family: Family, variant: str, addresses: tuple[str, ...], policy: Policy, where: Variant) -> Pool:
        """Gives a variant's pool: the one there is, at the addresses and with the settings that hold now."""
        guard = guard_settings(policy)
        pool = self._pools.get((family.name, variant))
        remote = Remote(where.model, where.output) if where.protocol == "open_inference" else None
        if pool is None or pool.remote != remote:
            return Pool(
                addresses,
                expectation(family),
                loop=self._loop,
                jitter=self._jitter,
                guard=guard,
                scales_to_zero=where.scale_to_zero,
                remote=remote,
            )
        pool.configure(guard, scales_to_zero=where.scale_to_zero)
        if pool.addresses != addresses:
            pool.move(addresses)
        return pool

    @property
    def pools(self) -> Mapping[tuple[str, str], Pool]:
        """The pools of the newest table, by family and variant."""
        return self._pools

    def retire(self, pools: Sequence[Pool]) -> None:
        """Closes pools that nobody is sent to any more, once what they have under way is answered."""
        for pool in pools:
            task = self._loop.create_task(pool.close(LONGEST_DEADLINE_SECONDS))
            self._retiring[pool] = task
            task.add_done_callback(lambda _: self._forget_retired())

    def _forget_retired(self) -> None:
        self._retiring = {pool: task for pool, task in self._retiring.items() if not task.done()}

    async def close(self) -> None:
        """Closes every pool, those that were still finishing as well."""
        for task in self._retiring.values():
            task.cancel()
        await asyncio.gather(*(pool.close() for pool in (*self._pools.values(), *self._retiring)))
        self._pools = {}


def expectation(family: Family) -> Expectation:
    """Says what a backend of a family must serve, and which answers may be used."""
    return Expectation(family.name, family.schema.digest, family.schema.row_bytes, *valid_range(family.target))


def guard_settings(policy: Policy) -> GuardSettings:
    """Gives the settings of the backends' guards that a policy asks for."""
    breaker, limit = policy.breaker, policy.concurrency
    return GuardSettings(
        breaker=BreakerSettings(
            failures_in_a_row=breaker.failures_in_a_row,
            share=breaker.share,
            fewest=breaker.fewest,
            window_seconds=breaker.window_seconds,
            first_open_seconds=breaker.first_open_seconds,
            longest_open_seconds=breaker.longest_open_seconds,
        ),
        limit=LimitSettings(lowest=limit.lowest, highest=limit.highest, first=limit.first),
        slow_seconds=breaker.slow_ms / 1000 if breaker.slow_ms is not None else None,
    )


def variant_addresses(home: Home, family: str, variant: str, where: Variant) -> tuple[str, ...]:
    """Gives the addresses of a variant: the configured ones, or the local socket of our own model server."""
    return where.addresses or (home.variant_socket(family, variant),)


def _family(name: str) -> Family:
    try:
        return load_family(name)
    except NotFound as error:
        raise ConfigError(f"families.{name}: {error.message}") from error
