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
from router.backends.pool import Pool
from router.deciding import Decider
from router.hub import HubLedger, hub_channel
from router.metrics import RouterMetrics
from router.open_inference import OpenInference
from router.outcomes import Outcomes
from router.recent import RecentDecisions
from router.routing import Rotation, RoutingTable
from router.servicer import PredictionService
from router.shipping import Shipper
from router.tables import TableBuilder
from services.runtime.config import Config, read_config
from services.runtime.experiment import Experiment
from services.runtime.followed_file import fingerprint
from services.runtime.grpc_binding import Admission, bind
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
        metrics = RouterMetrics(registry)
        tables = TableBuilder(loop=loop, jitter=random.random)
        table, _ = tables.build(config)
        stack.push_async_callback(tables.close)
        log = journal.Journal(Home(config.home).journal(name), max_bytes=config.router.journal_max_bytes)
        stack.callback(log.close)
        recent, rotation = RecentDecisions(config.router.recent_decisions), Rotation()
        _restore(log.folder, recent, rotation)
        metrics.held.set_function(lambda: log.held)
        metrics.lost.set_function(lambda: log.lost)
        metrics.follow_journal(lambda: log.status)
        decider = Decider(
            table,
            journal=log,
            recent=recent,
            rotation=rotation,
            metrics=metrics,
            router=name,
            wait_for_commit=config.router.wait_for_commit,
            make_id=uuid7_source(lambda: time.time_ns() // 1_000_000, random.getrandbits),
            now_unix_ns=time.time_ns,
            monotonic_ns=time.monotonic_ns,
        )
        log.append(_snapshots(config, {}, name))
        channel = hub_channel(config.hub.grpc)
        stack.push_async_callback(channel.close)
        hub = HubLedger(channel, router=name, token=operator_token)
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
        applying = _Applier(tables, decider, log, metrics, config=config, router=name)
        for work in (log.run(), shipper.run(), config_watch.watch(config_path, seen, applying.apply, applying.refused)):
            stack.push_async_callback(_end, loop.create_task(work))
        server = await stack.enter_async_context(_serve(config, decider, outcomes, metrics))
        yield Router(server, decider, log, shipper)


@contextlib.asynccontextmanager
async def _serve(config: Config, decider: Decider, outcomes: Outcomes, metrics: RouterMetrics) -> AsyncIterator[Server]:
    identify = by_token({n: t.token_sha256 for n, t in config.tenants.items()}) if config.tenants else everybody
    admission = Admission(config.router.max_concurrent_calls)
    prediction = prediction_pb2.DESCRIPTOR.services_by_name["PredictionService"]
    oip = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    def handlers(server: Server) -> list[object]:
        service = PredictionService(decider, outcomes, metrics=metrics, stopping=server.stopping)
        inference = OpenInference(decider, service, version=version("turnout"))
        return [
            bind(prediction, service, identify=identify, admission=admission),
            bind(oip, inference, identify=identify, admission=admission),
        ]

    reflected = (prediction.full_name, oip.full_name) if config.router.reflection else ()
    async with serving(handlers, config.router.grpc, reflected=reflected) as server:  # type: ignore[arg-type]
        yield server


class _Applier:
    """Swaps a new configuration in: snapshot into the journal first, then the table, then old links closed."""

    def __init__(
        self,
        tables: TableBuilder,
        decider: Decider,
        log: journal.Journal,
        metrics: RouterMetrics,
        *,
        config: Config,
        router: str,
    ) -> None:
        self._tables = tables
        self._decider = decider
        self._log = log
        self._metrics = metrics
        self._config = config
        self._router = router

    async def apply(self, config: Config) -> None:
        table, retired = self._tables.build(config)
        snapshots = _snapshots(config, self._config.experiments, self._router)
        if snapshots:
            self._log.append(snapshots)
        self._swap(config, table)
        await _close_later(retired)

    def _swap(self, config: Config, table: RoutingTable) -> None:
        self._decider.table = table
        self._config = config
        self._metrics.configuration(applied=True)
        revisions = {name: experiment.revision for name, experiment in config.experiments.items()}
        _log.info("configuration applied", revisions=revisions)

    def refused(self) -> None:
        self._metrics.configuration(applied=False)


async def _close_later(pools: list[Pool]) -> None:
    await asyncio.gather(*(pool.close() for pool in pools))


def _snapshots(config: Config, before: dict[str, Experiment], router: str) -> list[bytes]:
    """Gives the journal records of the experiments that changed."""
    now_us = time.time_ns() // 1000
    records = []
    for family, experiment in config.experiments.items():
        if before.get(family) != experiment:
            snapshot = ledger_pb2.ExperimentSnapshot(
                family=family,
                revision=experiment.revision,
                digest=experiment.digest(),
                canonical_json=experiment.canonical_json(),
                applied_at_unix_us=now_us,
                router=router,
            )
            records.append(ledger_pb2.JournalRecord(snapshot=snapshot).SerializeToString())
    return records


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
                rotation.start_at(d.family, d.prediction.assignment.sequence + 1)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
