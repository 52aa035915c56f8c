"""Composes the hub. The parameters are the seams for tests."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import grpc
from prometheus_client import CollectorRegistry
from sqlalchemy import URL

from bentos import family as declared_families
from bentos.family import Family
from monitoring.alerting import alerting
from monitoring.cycle.calls import CycleCalls
from monitoring.cycle.limits import MONITORS_SHARE, thresholds_of
from monitoring.cycle.monitors import Monitors
from monitoring.cycle.routers import RouterBook
from monitoring.cycle.running import Cycle, cycling
from monitoring.ledger.keeping_up import keeping_up
from monitoring.ledger.metrics import LedgerMetrics
from monitoring.ledger.retention import Retention
from monitoring.ledger.service import LedgerService
from monitoring.ledger.store import Store, StoreSettings, open_store
from monitoring.metrics import MonitoringMetrics
from monitoring.service import MONITORING, monitoring_service
from services.control.composition import steering
from services.control.metrics import ControlMetrics
from services.hub.dry_run import decide
from services.hub.platform import platform_source
from services.runtime.config import Config, read_config
from services.runtime.database import Database, open_database, sqlite_url
from services.runtime.errors import NotFound
from services.runtime.grpc_binding import Admission, bind
from services.runtime.home import Home
from services.runtime.identity import Identify, by_token, nobody_of
from services.runtime.monitoring_config import MonitoringSettings
from services.runtime.serving import BACKEND_OPTIONS, Server, serving
from services.runtime.transcoding.routes import Bound
from turnout.v1 import experiment_pb2, ledger_pb2

_LEDGER: Final = ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"]
_EXPERIMENTS: Final = experiment_pb2.DESCRIPTOR.services_by_name["ExperimentService"]
UPKEEP_SECONDS: Final = 10.0
"""Between two looks at whether the ledger has something to add up or to remove."""
_LEDGER_CALLS: Final = 16
"""Ledger calls under way; a batch has at most 16 MiB, so they hold at most 256 MiB."""
_EXPERIMENT_CALLS: Final = 64
_MONITORING_CALLS: Final = 64


@dataclass(frozen=True, slots=True)
class Hub:
    """A running hub."""

    server: Server
    database: Database
    store: Store
    cycle: Cycle
    services: tuple[Bound, ...]
    """What is served over gRPC, for whoever serves it over HTTP too."""


@contextlib.asynccontextmanager
async def running(
    config_path: Path,
    *,
    registry: CollectorRegistry,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    clock: Callable[[], float] = time.monotonic,
    drain_seconds: float = 20.0,
) -> AsyncIterator[Hub]:
    """Serves LedgerService, ExperimentService, MonitoringService and liveness until the block ends; then drains.

    Args:
        config_path: turnout.yaml; its experiments are followed, the rest is read now.
        registry: where metrics go.
        now_us: microseconds since 1970-01-01T00:00Z.
        clock: rising seconds.
        drain_seconds: how long calls under way may take to finish.

    Raises:
        ConfigError: the file is wrong.
        DatabaseUnusable: the database cannot be opened.
        Unavailable: the database cannot be read.
        OSError: the address cannot be bound.
    """
    config = read_config(config_path)
    identify = _operators(config)
    metrics = LedgerMetrics(registry)
    settings = StoreSettings(retention=Retention(**config.hub.retention.model_dump()))
    steered = ControlMetrics(registry)
    services: list[Bound] = []
    routers = RouterBook()
    declared = _Declared(config)
    told = MonitoringMetrics(registry)
    monitors = Monitors(
        family_of,
        lambda family: thresholds_of(family, declared.current(), MONITORS_SHARE),
        predicted=told.predictions,
    )
    with (
        open_database(_database_url(config), clock=clock) as database,
        open_store(
            database,
            now_us=now_us,
            clock=clock,
            settings=settings,
            appended=metrics.appended,
            follow=monitors.follow,
        ) as store,
    ):

        def handlers(server: Server) -> list[grpc.GenericRpcHandler]:
            stopping = server.stopping.is_set
            ledger = LedgerService(
                store, stopping=stopping, told=lambda router, journal: routers.tell(router, journal, now_us())
            )
            experiments.ends_with(server.stopping)
            calls = CycleCalls(cycle, routers, now_us=now_us)
            monitoring = monitoring_service(calls, *alerts.calls(stopping=stopping))
            services.extend(
                (
                    Bound(_LEDGER, ledger, identify, Admission(_LEDGER_CALLS), Admission(_LEDGER_CALLS)),
                    Bound(_EXPERIMENTS, experiments, identify, Admission(_EXPERIMENT_CALLS)),
                    Bound(MONITORING, monitoring, identify, Admission(_MONITORING_CALLS)),
                )
            )
            return [
                bind(
                    one.service,
                    one.implementation,
                    identify=identify,
                    admission=one.admission,
                    streams=one.streams,
                )
                for one in services
            ]

        async with (
            keeping_up(store, pause_seconds=UPKEEP_SECONDS, stepped=metrics.stepped),
            alerting(database, config.monitoring, registry=registry, now_us=now_us, clock=clock) as alerts,
            steering(database, config_path, decide, metrics=steered, now_us=now_us, clock=clock) as experiments,
        ):
            declared.current = lambda: alerts.settings.current
            cycle = Cycle(
                database,
                alerts,
                monitors,
                families=family_of,
                platform=platform_source(config, experiments.running, now_us),
                metrics=told,
                now_us=now_us,
                clock=clock,
            )
            async with (
                # Routers keep one connection for as long as they live, and their batches have up to 16 MiB.
                serving(handlers, config.hub.grpc, options=BACKEND_OPTIONS, drain_seconds=drain_seconds) as server,
                cycling(cycle),
            ):
                for one in services:
                    await server.set_serving(one.service.full_name, serving=True)
                yield Hub(server, database, store, cycle, tuple(services))


def _operators(config: Config) -> Identify:
    """Gives who may speak to the hub, and under which name; a tenant's token never opens it."""
    if config.operators:
        return by_token({name: operator.token_sha256 for name, operator in config.operators.items()})
    return nobody_of({name: tenant.token_sha256 for name, tenant in config.tenants.items()})


class _Declared:
    """The settings of monitoring: those of turnout.yaml until those in force are read."""

    def __init__(self, config: Config) -> None:
        self.current: Callable[[], MonitoringSettings] = lambda: config.monitoring


@lru_cache(maxsize=256)
def family_of(name: str) -> Family | None:
    """Gives a family's declaration, None when there is none."""
    try:
        return declared_families.load(name)
    except NotFound:
        return None


def _database_url(config: Config) -> str | URL:
    """Gives the database's URL: the configured one, or a SQLite file under `home`."""
    return config.hub.database_url.get_secret_value() or sqlite_url(Home(config.home).ledger)
