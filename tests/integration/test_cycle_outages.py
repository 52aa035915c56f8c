"""A real database that dies, hangs, is read-only or full in the middle of a check cycle: told, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import monitoring.alerts.engine
import monitoring.alerts.unsaved
import monitoring.cycle.looking
import monitoring.cycle.monitors
from monitoring.alerts.kinds import AlertType
from monitoring.alerts.reading import Filter, count_alerts
from monitoring.cycle.health import Part, State
from monitoring.cycle.platform import Platform, Served
from services.runtime.database import sqlite_url
from services.runtime.errors import Unavailable
from services.runtime.monitoring_config import MonitoringSettings
from tests.integration.cycle_under_test import SETTINGS, Stage, a_stage
from tests.integration.postgresql_under_test import PostgreSQL, a_server, why_not

# The driver's cursor on the server cannot be closed once the server is dead, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:<psycopg.ServerCursor:ResourceWarning")
DECISIONS = 1000
SOON = MonitoringSettings.model_validate(
    SETTINGS.model_dump() | {"rules": {"database_unavailable": {"recover_seconds": 1}}}
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    """A server that these tests alone may kill."""
    if reason := why_not():
        pytest.skip(reason)
    with a_server() as running:
        yield running


_numbers = itertools.count(1)


@pytest.fixture
def url(server: PostgreSQL) -> str:
    """A fresh database of it."""
    name = f"outage{next(_numbers)}"
    server.sql(f"CREATE DATABASE {name}")
    return server.url(name)


def _database(stage: Stage) -> Part:
    return stage.cycle.health.parts[0]


async def _sent(stage: Stage, records: list[bytes]) -> bool:
    """Sends a router's batch; tells whether the ledger took it."""
    try:
        await stage.store.append(records, "r1")
    except Unavailable:
        return False
    return True


def _serve(stage: Stage, *, days: float) -> None:
    """One variant, trained so many days ago."""
    trained = stage.clock.now_us - int(days * 86_400e6)
    one = Served(family="toy", variant="model", trained_at_us=trained, ready=True)
    stage.platform.append(Platform(families=("toy",), served=(one,)))


async def _begun(stage: Stage) -> list[bytes]:
    """A stage in full work, with a batch that is not watched yet and an alert that the next cycle will raise."""
    for _ in range(2):
        await stage.traffic.run(DECISIONS // 2)
        await stage.cycle.once()
    assert stage.cycle.health.state is State.HEALTHY
    records = stage.traffic.records(250)
    assert await _sent(stage, records)
    _serve(stage, days=100)
    return records


async def _works_again(stage: Stage, records: list[bytes]) -> None:
    """The next cycles are healthy, each batch is stored and watched once, and what was wrong is history."""
    assert "stale_model" in stage.types()
    _serve(stage, days=1)
    # Who does not know whether a batch arrived sends it again.
    async with asyncio.timeout(60):
        while not await _sent(stage, records):
            await asyncio.sleep(0.05)
    for _ in range(2):
        stage.clock.forward(60)
        await stage.cycle.once()
    assert stage.cycle.health.state is State.HEALTHY, stage.cycle.health.parts
    (one,) = stage.monitors.watch(stage.database).standings
    assert one.decisions == DECISIONS + 250
    assert stage.types() == set()
    assert not stage.alerts.engine.waiting_for_database
    for kind in (AlertType.DATABASE_UNAVAILABLE, AlertType.STALE_MODEL):
        counts = await stage.database.read(count_alerts, Filter(types=(kind,)))
        assert [(count.firing, count.resolved) for count in counts] == [(0, 1)]


MOMENTS = {
    "while the monitors are written": (monitoring.cycle.monitors, "put_state"),
    "while the ledger is read": (monitoring.cycle.looking, "window_totals"),
    "while features are read": (monitoring.cycle.looking, "feature_sketches"),
    "while the cycle's memory is written": (monitoring.cycle.looking, "put_state"),
    "while alerts are written": (monitoring.alerts.unsaved, "write_alerts"),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
async def test_a_server_that_is_killed_in_the_middle_of_a_cycle(
    server: PostgreSQL, url: str, moment: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process of PostgreSQL dies by SIGKILL at that moment; it starts again, and all is there."""
    module, name = moment
    real: Callable[..., Any] = getattr(module, name)
    deaths: list[str] = []

    def deadly(*given: Any, **named: Any) -> Any:
        if not deaths:
            deaths.append(name)
            server.kill()
        return real(*given, **named)

    async with a_stage(url, SOON) as stage:
        records = await _begun(stage)
        monkeypatch.setattr(module, name, deadly)
        await stage.cycle.once()
        assert deaths
        await stage.cycle.once()
        assert _database(stage).state is State.UNHEALTHY
        assert _database(stage).reasons[:2] == (
            "the database cannot be read",
            "the database cannot be written: routers keep their records meanwhile",
        )
        assert "database_unavailable" in stage.types()
        assert not await _sent(stage, records)
        server.start()
        await _works_again(stage, records)


async def test_a_server_that_hangs(server: PostgreSQL, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL takes calls and never answers: a cycle ends all the same, says so, and goes on when it wakes up."""
    async with a_stage(url, SOON) as stage:
        records = await _begun(stage)
        await stage.cycle.once()
        with server.frozen(), monkeypatch.context() as impatient:
            impatient.setattr(monitoring.alerts.engine, "SAVE_SECONDS", 0.3)
            impatient.setattr(stage.cycle, "_answer_seconds", 0.3)
            for _ in range(2):
                async with asyncio.timeout(30):
                    await stage.cycle.once()
                assert _database(stage).state is State.UNHEALTHY
            told = {alert.type.value: alert.summary for alert in stage.alerts.engine.active()}
            assert told["monitoring_failed"] == "the database did not answer within 0.3 s"
            assert "database_unavailable" in told
        await _works_again(stage, records)


async def test_a_server_that_takes_no_writes(server: PostgreSQL, url: str) -> None:
    """A standby, or a disk that the server made read-only: cycles go on reading, and say what is not written."""
    async with a_stage(url, SOON) as stage:
        records = await _begun(stage)
        # Sessions that are open feel it as well as new ones.
        server.sql("ALTER SYSTEM SET default_transaction_read_only = on")
        server.sql("SELECT pg_reload_conf()")
        try:
            async with asyncio.timeout(60):
                while await _sent(stage, records):
                    await asyncio.sleep(0.05)
            await stage.cycle.once()
            assert _database(stage).reasons[0].startswith("the database cannot be written")
            assert "database_unavailable" in stage.types()
        finally:
            server.sql("ALTER SYSTEM RESET default_transaction_read_only")
            server.sql("SELECT pg_reload_conf()")
        await _works_again(stage, records)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 4 MB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False, capture_output=True, timeout=30
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


async def test_a_disk_that_is_full(small_disk: Path) -> None:
    """SQLite on a disk without a free byte: what waits is watched and stored once there is room again."""
    async with a_stage(str(sqlite_url(small_disk / "hub.sqlite")), SOON) as stage:
        records = await _begun(stage)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        # What is free inside of SQLite's own files is used up first.
        refused: list[list[bytes]] = []
        while len(refused) < 2:
            batch = stage.traffic.records(250)
            if not await _sent(stage, batch):
                refused.append(batch)
        await stage.cycle.once()
        assert _database(stage).state is State.UNHEALTHY
        assert _database(stage).reasons[0].startswith("the database cannot be written")
        assert "database_unavailable" in stage.types()
        filler.unlink()
        await _works_again(stage, records)


HUB = """\
hub: {{grpc: "127.0.0.1:0", metrics: "127.0.0.1:0", http: "127.0.0.1:0", database_url: "{url}"}}
families: {{dispatch: {{}}}}
monitoring: {{cycle_seconds: 1, rules: {{database_unavailable: {{recover_seconds: 0}}}}}}
experiments:
  dispatch: {{salt: s, champion: rules, strategy: {{kind: random}}, arms: {{rules: {{variant: rules}}}}}}
"""
ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def a_hub(config: Path) -> Iterator[dict[str, str]]:
    """A hub in a process of its own; gives its addresses."""
    command = [sys.executable, "-m", "services.hub", "--config", str(config)]
    with (config.parent / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready, (config.parent / "log").read_text()
        yield json.loads(ready)
    finally:
        process.kill()
        process.communicate(timeout=30)


def _page(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as page:
        return json.load(page)


def _until(address: str, state: str) -> dict[str, Any]:
    """Asks for health until its database is so; liveness answers each time."""
    ends = time.monotonic() + 60
    while True:
        assert _page(address, "/livez") == {"live": True}
        health: dict[str, Any] = _page(address, "/v1/monitoring/health")
        found = [
            one["state"] for one in health.get("dimensions", []) if one["dimension"] == "HEALTH_DIMENSION_DATABASE"
        ]
        if found == [state]:
            return health
        assert time.monotonic() < ends, health
        time.sleep(0.05)


def test_a_hub_is_live_and_tells_its_health_while_its_database_is_dead(
    server: PostgreSQL, url: str, tmp_path: Path
) -> None:
    """Cycles of a real hub fail, or one hangs; /livez, the gRPC health service and Health answer throughout."""
    config = tmp_path / "turnout.yaml"
    config.write_text(HUB.format(url=url))
    with a_hub(config) as hub, grpc.insecure_channel(hub["grpc"]) as channel:
        live = health_pb2_grpc.HealthStub(channel)
        _until(hub["http"], "HEALTH_STATE_HEALTHY")
        server.kill()
        try:
            health = _until(hub["http"], "HEALTH_STATE_UNHEALTHY")
            assert health["state"] == "HEALTH_STATE_UNHEALTHY"
            assert (
                live.Check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
            )
            alerts = _page(hub["http"], "/v1/monitoring/alerts")["alerts"]
            assert "ALERT_TYPE_DATABASE_UNAVAILABLE" in {alert["type"] for alert in alerts}
        finally:
            server.start()
        _until(hub["http"], "HEALTH_STATE_HEALTHY")
        with server.frozen():
            late = 0.0
            while late < 2:
                assert _page(hub["http"], "/livez") == {"live": True}
                due = int(_page(hub["http"], "/v1/monitoring/health")["next_check_unix_us"]) / 1e6
                late = time.time() - due
                time.sleep(0.05)
            assert (
                live.Check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
            )
        _until(hub["http"], "HEALTH_STATE_HEALTHY")
