"""Composes the hub. The parameters are the seams for tests."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from prometheus_client import CollectorRegistry
from sqlalchemy import URL

from monitoring.ledger.keeping_up import keeping_up
from monitoring.ledger.metrics import LedgerMetrics
from monitoring.ledger.retention import Retention
from monitoring.ledger.service import LedgerService
from monitoring.ledger.store import Store, StoreSettings, open_store
from services.control.composition import steering
from services.control.metrics import ControlMetrics
from services.hub.dry_run import decide
from services.runtime.config import Config, read_config
from services.runtime.database import Database, open_database, sqlite_url
from services.runtime.grpc_binding import Admission, bind
from services.runtime.home import Home
from services.runtime.identity import Identify, by_token, everybody
from services.runtime.serving import BACKEND_OPTIONS, Server, serving
from services.runtime.transcoding.routes import Bound
from turnout.v1 import experiment_pb2, ledger_pb2

OPERATOR: Final = "operator"
"""Who acts, in the audit log, when an operator's token is asked for."""
_LEDGER: Final = ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"]
_EXPERIMENTS: Final = experiment_pb2.DESCRIPTOR.services_by_name["ExperimentService"]
UPKEEP_SECONDS: Final = 10.0
"""Between two looks at whether the ledger has something to add up or to remove."""
_LEDGER_CALLS: Final = 16
"""Ledger calls under way; a batch has at most 16 MiB, so they hold at most 256 MiB."""
_EXPERIMENT_CALLS: Final = 64


@dataclass(frozen=True, slots=True)
class Hub:
    """A running hub."""

    server: Server
    database: Database
    store: Store
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
    """Serves LedgerService, ExperimentService and health until the block ends; then drains, then closes the ledger.

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
    token = config.operator_token_sha256
    identify: Identify = by_token({OPERATOR: token}) if token else everybody
    metrics = LedgerMetrics(registry)
    settings = StoreSettings(retention=Retention(**config.hub.retention.model_dump()))
    steered = ControlMetrics(registry)
    services: list[Bound] = []
    with (
        open_database(_database_url(config), clock=clock) as database,
        open_store(database, now_us=now_us, clock=clock, settings=settings, appended=metrics.appended) as store,
    ):

        def handlers(server: Server) -> list[grpc.GenericRpcHandler]:
            ledger = LedgerService(store, stopping=server.stopping.is_set)
            experiments.ends_with(server.stopping)
            services.extend(
                (
                    Bound(_LEDGER, ledger, identify, Admission(_LEDGER_CALLS)),
                    Bound(_EXPERIMENTS, experiments, identify, Admission(_EXPERIMENT_CALLS)),
                )
            )
            return [
                bind(one.service, one.implementation, identify=identify, admission=one.admission) for one in services
            ]

        async with (
            keeping_up(store, pause_seconds=UPKEEP_SECONDS, stepped=metrics.stepped),
            steering(database, config_path, decide, metrics=steered, now_us=now_us, clock=clock) as experiments,
            # Routers keep one connection for as long as they live, and their batches have up to 16 MiB.
            serving(handlers, config.hub.grpc, options=BACKEND_OPTIONS, drain_seconds=drain_seconds) as server,
        ):
            for one in services:
                await server.set_serving(one.service.full_name, serving=True)
            yield Hub(server, database, store, tuple(services))


def _database_url(config: Config) -> str | URL:
    """Gives the database's URL: the configured one, or a SQLite file under `home`."""
    return config.hub.database_url.get_secret_value() or sqlite_url(Home(config.home).ledger)
