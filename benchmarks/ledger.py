"""Figures of the ledger: how fast it takes records, and that a report does not know how many there are.

`TURNOUT_BENCH_DECISIONS` is the size of the large ledger of `ledger_report_cost_ratio` (1 000 000 unless it is set;
10000000 is the long form).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import yaml
from sqlalchemy import NullPool, create_engine, func, select

from benchmarks.figures import Bound, Figure, Topic
from benchmarks.ledger_records import FAMILY, decisions, outcomes
from benchmarks.processes import Process, started
from monitoring.cycle.tables import MONITORING_INBOX
from services.runtime.database import sqlite_url
from turnout.v1 import ledger_pb2

NAMES: Final = (
    "ledger_ingest_sqlite_per_s",
    "ledger_ingest_with_outcomes_sqlite_per_s",
    "ledger_ingest_watched_sqlite_per_s",
    "ledger_ingest_postgresql_per_s",
    "ledger_ingest_with_outcomes_postgresql_per_s",
    "ledger_ingest_watched_postgresql_per_s",
    "ledger_report_cost_ratio",
)
BATCH: Final = 2000
"""As many records as a router sends at once."""
MEASURED: Final = 40_000
ROUNDS: Final = 3
SMALL: Final = 10_000
REPORTS: Final = 40
SPAN_US: Final = 3 * 3600 * 1_000_000
"""Both ledgers of the report's figure span so much time; only the number of decisions in it differs."""
_DEBIAN: Final = Path("/usr/lib/postgresql/15/bin")
Say = Callable[[str], None]


def measure(progress: Say, say: Say) -> Iterator[Figure]:
    """Measures the ledger inside real hub processes, one after the other."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="turnout-bench-"))
        file = sqlite_url(Path(folder) / "ledger.sqlite").render_as_string(hide_password=False)
        progress("the ledger in SQLite")
        yield from _ingest(stack.enter_context(_hub(file)), "sqlite", file)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(_postgresql())
        if url is None:
            say("  ledger_ingest_postgresql_per_s: left out, PostgreSQL is not installed (Debian: postgresql)")
        else:
            progress("the ledger in PostgreSQL")
            yield from _ingest(stack.enter_context(_hub(url)), "postgresql", url)
    many = int(os.environ.get("TURNOUT_BENCH_DECISIONS", "1000000"))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="turnout-bench-"))
        files = [sqlite_url(Path(folder) / name).render_as_string(hide_password=False) for name in ("few", "many")]
        few_hub, many_hub = (stack.enter_context(_hub(file)) for file in files)
        progress(f"a report over {SMALL:,} and one over {many:,} decisions")
        start_us = time.time_ns() // 1000 - SPAN_US
        for hub, file, count in zip((few_hub, many_hub), files, (SMALL, many), strict=True):
            records = decisions(1, 0, count, start_us=start_us, every_us=SPAN_US / count)
            for batch in _batches(records):
                _append(hub, batch)
            # The monitors must not be at work any more while reports are timed.
            _all_watched(file, count)
        few, large = _report_cpu(few_hub, many_hub)
        say(f"  CPU of one report: {few * 1e3:.2f} ms over {SMALL:,} decisions, {large * 1e3:.2f} ms over {many:,}")
        yield Figure("ledger_report_cost_ratio", large / few, "x", 1.2)


def _ingest(hub: Process, name: str, url: str) -> Iterator[Figure]:
    """Gives decisions per second of the hub's CPU: stored; each followed by its outcome; and until all are watched."""
    now_us = time.time_ns() // 1000
    rates: list[list[float]] = [[], []]
    watched_from = 0.0
    for number in range(ROUNDS + 1):
        first = number * MEASURED
        made = list(decisions(number, first, MEASURED, start_us=now_us - 60_000_000, every_us=1000))
        reported = list(outcomes(number, first, MEASURED, at_us=now_us))
        before = hub.cpu_seconds()
        for batch in _batches(iter(made)):
            _append(hub, batch)
        between = hub.cpu_seconds()
        for batch in _batches(iter(reported)):
            _append(hub, batch)
        after = hub.cpu_seconds()
        if number:  # the first round warms up
            rates[0].append(MEASURED / (between - before))
            rates[1].append(MEASURED / (after - before))
        else:
            _all_watched(url, MEASURED)
            watched_from = hub.cpu_seconds()
    _all_watched(url, ROUNDS * MEASURED)
    watched = ROUNDS * MEASURED / (hub.cpu_seconds() - watched_from)
    for rate, kind in zip(rates, ("", "with_outcomes_"), strict=True):
        yield Figure(f"ledger_ingest_{kind}{name}_per_s", statistics.median(rate), "1/s", 10_000, Bound.AT_LEAST)
    yield Figure(f"ledger_ingest_watched_{name}_per_s", watched, "1/s", None)


def _all_watched(url: str, decisions: int) -> None:
    """Waits until the monitors have taken all that was stored, which they do every 30 s, and at each check cycle."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool)
    until = time.monotonic() + 120 + decisions / 2000
    while True:
        with engine.connect() as connection:
            if connection.scalar(select(func.count()).select_from(MONITORING_INBOX)) == 0:
                return
        assert time.monotonic() < until, "the monitors did not take what was stored"
        time.sleep(0.5)


def _report_cpu(few: Process, many: Process) -> tuple[float, float]:
    """Gives the hub's CPU seconds for one SummarizeArms over everything: medians of alternating rounds."""
    costs: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS * 3):
        for hub, cost in zip((few, many), costs, strict=True):
            before = hub.cpu_seconds()
            for _ in range(REPORTS):
                _call(hub, "SummarizeArms", ledger_pb2.SummarizeArmsRequest(family=FAMILY))
            if number:
                cost.append((hub.cpu_seconds() - before) / REPORTS)
    return statistics.median(costs[0]), statistics.median(costs[1])


def _batches(records: Iterator[bytes]) -> Iterator[Sequence[bytes]]:
    batch: list[bytes] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _append(hub: Process, records: Sequence[bytes]) -> None:
    request = ledger_pb2.AppendRecordsRequest(records=records, router="router-1")
    reply = ledger_pb2.AppendRecordsResponse.FromString(_call(hub, "AppendRecords", request))
    assert reply.stored == len(records), "a record was not stored as new"


def _call(
    hub: Process, method: str, request: ledger_pb2.AppendRecordsRequest | ledger_pb2.SummarizeArmsRequest
) -> bytes:
    channel = _channels.get(hub.address)
    if channel is None:
        channel = _channels[hub.address] = grpc.insecure_channel(hub.address, options=_OPTIONS)
    call: Any = channel.unary_unary(f"/turnout.v1.LedgerService/{method}")
    answer: bytes = call(request.SerializeToString(), timeout=60)
    return answer


_OPTIONS: Final = (("grpc.max_send_message_length", 16 << 20),)
_channels: dict[str, grpc.Channel] = {}


@contextlib.contextmanager
def _hub(database_url: str) -> Iterator[Process]:
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as name:
        folder = Path(name)
        free = "127.0.0.1:0"
        hub = {"grpc": free, "metrics": free, "http": free, "database_url": database_url}
        experiment = {
            "salt": "bench",
            "champion": "rules",
            "strategy": {"kind": "random"},
            "arms": {"rules": {"variant": "rules"}},
        }
        config = {"home": name, "hub": hub, "families": {FAMILY: {}}, "experiments": {FAMILY: experiment}}
        path = folder / "turnout.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        with started(["-m", "services.hub", "--config", str(path)], folder / "log") as process:
            yield process
            channel = _channels.pop(process.address, None)
            if channel is not None:
                channel.close()


@contextlib.contextmanager
def _postgresql() -> Iterator[str | None]:
    """Gives the URL of a database of a PostgreSQL server of its own with its usual settings; None without one."""
    if not (_DEBIAN / "initdb").exists() or (os.geteuid() == 0 and shutil.which("setpriv") is None):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="turnout-bench-pg-") as name:
        if os.geteuid() == 0:
            shutil.chown(name, "postgres")
        data = f"{name}/data"
        _postgres("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
        # A socket in a folder of our own: no port that others could take in between.
        options = f"-k {name} -c listen_addresses="
        _postgres("pg_ctl", "-D", data, "start", "-w", "-o", options, "-l", f"{name}/log")
        try:
            yield f"postgresql://postgres@/postgres?host={name}"
        finally:
            _postgres("pg_ctl", "-D", data, "stop", "-w", "-m", "fast")


def _postgres(program: str, *arguments: str) -> None:
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    command = [*prefix, str(_DEBIAN / program), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", timeout=60)


TOPIC: Final = Topic(NAMES, measure)
