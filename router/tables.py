"""Builds routing tables from configurations, keeping the links that both have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bentos.family import Family
from bentos.family import load as load_family
from router.backends.link import Expectation
from router.backends.pool import Pool
from router.routing import Route, RoutingTable
from router.strategies import compile_experiment
from services.runtime.config import Config, ConfigError, Variant
from services.runtime.errors import NotFound
from services.runtime.home import Home


class TableBuilder:
    """Owns the pools: a new table takes over those whose addresses did not change."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop, jitter: Callable[[], float]) -> None:
        self._loop = loop
        self._jitter = jitter
        self._pools: dict[tuple[str, str], Pool] = {}

    def build(self, config: Config) -> tuple[RoutingTable, list[Pool]]:
        """Gives the table of a configuration and the pools that it no longer needs; close those after the swap.

        Raises:
            ConfigError: a family is not declared in this program.
        """
        families = {name: _family(name) for name in config.families}
        home = Home(config.home)
        pools: dict[tuple[str, str], Pool] = {}
        for name, settings in config.families.items():
            expected = Expectation(name, families[name].schema.digest)
            for variant, where in settings.variants.items():
                addresses = variant_addresses(home, name, variant, where)
                old = self._pools.get((name, variant))
                if old is not None and old.addresses == addresses:
                    pools[(name, variant)] = old
                else:
                    pools[(name, variant)] = Pool(addresses, expected, loop=self._loop, jitter=self._jitter)
        retired = [pool for key, pool in self._pools.items() if pools.get(key) is not pool]
        self._pools = pools
        routes = {
            name: Route(
                family=families[name],
                deadline_seconds=settings.deadline_ms / 1000,
                experiment=compile_experiment(config.experiments[name]) if name in config.experiments else None,
                pools={variant: pool for (family, variant), pool in pools.items() if family == name},
            )
            for name, settings in config.families.items()
        }
        return RoutingTable(routes), retired

    async def close(self) -> None:
        """Closes every pool."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        self._pools = {}


def variant_addresses(home: Home, family: str, variant: str, where: Variant) -> tuple[str, ...]:
    """Gives the addresses of a variant: the configured ones, or the local socket of our own model server."""
    return where.addresses or (home.variant_socket(family, variant),)


def _family(name: str) -> Family:
    try:
        return load_family(name)
    except NotFound as error:
        raise ConfigError(f"families.{name}: {error.message}") from error
