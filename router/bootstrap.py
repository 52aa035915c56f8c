"""The router's composition root: everything is made here and ended here, in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry

from inference import open_inference_pb2
from router import config_watch, journal
from router.alert_watch import AlertWatch
from router.applying import Applier, Starting
from router.asking import Asking
from router.backends.metrics import follow_guards
from router.deciding import Decider
from router.experiment_metrics import ExperimentMetrics
from router.experiment_watch import ExperimentWatch
from router.hub import HubLedger, hub_channel
from router.last_good import LastGood
from router.metrics import RouterMetrics
from router.open_inference import OpenInference
from router.outcomes import Outcomes
from router.quotas import Quotas
from router.recent import RecentDecisions
from router.resilience.standing_alerts import StandingAlerts
from router.routing import Rotation
from router.servicer import PredictionService
from router.shadowing import Shadows
from router.shipping import Shipper
from router.tables import TableBuilder
from services.runtime.admission import Admission, first_text, watching
from services.runtime.config import Config, read_config
from services.runtime.followed_file import fingerprint
from services.runtime.grpc_binding import bind
from services.runtime.home import Home
from services.runtime.identifiers import uuid7_source
from services.runtime.identity import by_token, everybody
from services.runtime.serving import Server, serving
from turnout.v1 import ledger_pb2, prediction_pb2

_log = structlog.get_logger(__name__)
FLUSH_SECONDS: Final = 5.0
RESTORED_DECISIONS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Router:
    """A running router, for tests and tools."""

    server: Server
    decider: Decider
    journal: journal.Journal
    shipper: Shipper
    applier: Applier
    alerts: StandingAlerts
    registry: CollectorRegistry


@contextlib.asynccontextmanager
async def running(
    config_path: Path, *, name: str, registry: CollectorRegistry, operator_token: str | None = None
) -> AsyncIterator[Router]:
    """Runs a router until the block ends. Needs nothing but its file and its journal's folder.

    Args:
        config_path: turnout.yaml; followed for changes.
        name: the router's name; its journal lives under it.
        registry: where metrics go.
        operator_token: credential towards the hub.

    Raises:
        ConfigError: the file is wrong.
        OSError: the address or the journal's folder cannot be had.
    """
    seen = fingerprint(config_path)
    config = read_config(config_path)
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        metrics, experiment_metrics = RouterMetrics(registry), ExperimentMetrics(registry)
        tables = TableBuilder(loop=loop, jitter=random.random)
        follow_guards(registry, lambda: tables.pools)
        last_good = LastGood(config.home / "routers" / name / "experiments")
        starting = Starting(config, last_good)
        table, _ = tables.build(config, starting.families)
        stack.push_async_callback(tables.close)
        log = journal.Journal(Home(config.home).journal(name), max_bytes=config.router.journal_max_bytes)
        stack.callback(log.close)
        recent, rotation = RecentDecisions(config.router.recent_decisions), Rotation()
        _restore(log.folder, recent, rotation)
        metrics.held.set_function(lambda: log.held)
        metrics.lost.set_function(lambda: log.lost)
        metrics.follow_journal(lambda: log.status)
        admission = Admission(config.router.max_concurrent_calls, random.random)
        metrics.follow_admission(lambda: admission.room, lambda: admission.under_way)
        alerts = StandingAlerts()
        asking = Asking(clock=loop.time, alerts=alerts, metrics=metrics, shedding=lambda: admission.shedding)
        shadows = Shadows(loop=loop, journal=log, metrics=experiment_metrics, clock=loop.time)
        stack.push_async_callback(shadows.close)
        decider = Decider(
            table,
            journal=log,
            recent=recent,
            rotation=rotation,
            metrics=metrics,
            experiment_metrics=experiment_metrics,
            asking=asking,
            shadows=shadows,
            router=name,
            wait_for_commit=config.router.wait_for_commit,
            make_id=uuid7_source(lambda: time.time_ns() // 1_000_000, random.getrandbits),
            now_unix_ns=time.time_ns,
            monotonic_ns=time.monotonic_ns,
        )
        applier = Applier(
            tables,
            decider,
            metrics=experiment_metrics,
            configuration=metrics.configuration,
            last_good=last_good,
            config=config,
            starting=starting,
            now_unix_us=lambda: time.time_ns() // 1000,
        )
        channel = hub_channel(config.hub.grpc)
        stack.push_async_callback(channel.close)
        hub = HubLedger(channel, router=name, token=operator_token, journal=lambda: log.status)
        shipper = Shipper(log, hub.ship)
        metrics.unshipped.set_function(shipper.pending_bytes)
        stack.push_async_callback(shipper.drain, FLUSH_SECONDS)
        outcomes = Outcomes(
            decider,
            journal=log,
            recent=recent,
            metrics=metrics,
            find=hub.find,
            wait_for_commit=config.router.wait_for_commit,
            now_unix_ns=time.time_ns,
        )
        watch = ExperimentWatch(
            channel, applier, router=name, token=operator_token, jitter=random.random, monotonic=time.monotonic
        )
        alert_watch = AlertWatch(
            channel, alerts, wanted=lambda: decider.table.heeds_alerts, token=operator_token, jitter=random.random
        )
        experiment_metrics.version.set_function(lambda: applier.version)
        experiment_metrics.silence.set_function(watch.silent_seconds)
        following = config_watch.watch(config_path, seen, applier.apply_config, applier.refused)
        for work in (log.run(), shipper.run(), following, watch.run(), alert_watch.run()):
            stack.push_async_callback(_end, loop.create_task(work))
        await stack.enter_async_context(watching(admission))
        server = await stack.enter_async_context(_serve(config, decider, outcomes, metrics, admission))
        yield Router(server, decider, log, shipper, applier, alerts, registry)


@contextlib.asynccontextmanager
async def _serve(
    config: Config, decider: Decider, outcomes: Outcomes, metrics: RouterMetrics, admission: Admission
) -> AsyncIterator[Server]:
    identify = by_token({n: t.token_sha256 for n, t in config.tenants.items()}) if config.tenants else everybody
    quotas = Quotas(config.tenants, time.monotonic)
    prediction = prediction_pb2.DESCRIPTOR.services_by_name["PredictionService"]
    oip = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    def handlers(server: Server) -> list[object]:
        service = PredictionService(
            decider, outcomes, metrics=metrics, admission=admission, quotas=quotas, stopping=server.stopping
        )
        inference = OpenInference(decider, service, quotas=quotas, version=version("turnout"))
        return [
            bind(
                descriptor,
                implementation,
                identify=identify,
                admission=admission,
                critical=lambda raw: first_text(raw) in decider.table.critical,
                refused=metrics.refused,
            )
            for descriptor, implementation in ((prediction, service), (oip, inference))
        ]

    reflected = (prediction.full_name, oip.full_name) if config.router.reflection else ()
    async with serving(handlers, config.router.grpc, reflected=reflected) as server:  # type: ignore[arg-type]
        yield server


def _restore(folder: Path, recent: RecentDecisions, rotation: Rotation) -> None:
    """Learns the newest decisions of an earlier process from the journal."""
    for payload in journal.newest(folder, RESTORED_DECISIONS):
        try:
            record = ledger_pb2.JournalRecord.FromString(payload)
        except DecodeError:
            # Written by another version: the ledger sets it aside; it must not keep this router from starting.
            continue
        if record.HasField("decision"):
            d = record.decision
            recent.restore(d.tenant, d.decision_id, d.family, d.request_digest, d.prediction)
            if d.prediction.assignment.reason == prediction_pb2.ASSIGNMENT_REASON_ROTATION:
                rotation.start_at(d.prediction.assignment.experiment, d.prediction.assignment.sequence + 1)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
