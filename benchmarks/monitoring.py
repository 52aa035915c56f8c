"""What a check cycle costs, whether that depends on the number of decisions, and what a monitoring hub weighs.

The ledger's state is made by its own statistics: each minute's and hour's window is folded from arrays of decisions
by `Tally`, `Statistics.observe` and `FeatureStatistics.add` and written as the ledger writes it, without rows of
decisions, which no cycle reads. The state spans two hours in both cases, so what grows is the number of decisions in
each window. `TURNOUT_BENCH_DECISIONS` sets how many the larger state has (default 10 000 000).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, select

from benchmarks.figures import Figure, Topic
from benchmarks.processes import peak_mb
from bentos.family import Family, RulesAnswer, Target, TargetKind
from bentos.schema import Number, Schema
from monitoring.alerting import alerting
from monitoring.cycle.limits import MONITORS_SHARE, thresholds_of
from monitoring.cycle.monitors import Monitors
from monitoring.cycle.platform import Platform
from monitoring.cycle.running import Cycle
from monitoring.ledger.families import UNKNOWN, Described
from monitoring.ledger.feature_sets import FeatureSets
from monitoring.ledger.feature_statistics import FeatureStatistics, category_sizes
from monitoring.ledger.levels import DAY_US, HOUR_US, MINUTE_US
from monitoring.ledger.statistics import Statistics
from monitoring.ledger.store import Store, open_store
from monitoring.ledger.tables import CELLS, FEATURE_WINDOWS, WINDOWS
from monitoring.ledger.tally import Decisions, Outcomes, Tally, TargetRange
from monitoring.metrics import MonitoringMetrics
from services.runtime.database import Database, bulk_insert, open_database, sqlite_url
from services.runtime.monitoring_config import MonitoringSettings
from turnout.v1 import ledger_pb2, prediction_pb2

NAMES: Final = ("monitoring_cycle_s", "monitoring_cycle_cost_ratio", "monitor_hub_memory_mb")
FEATURES: Final = 20
ARMS: Final = 2
FEW: Final = 10_000
MANY: Final = 10_000_000
SPAN_MINUTES: Final = 120
ROUNDS: Final = 15
FED: Final = 6000
"""Decisions of each arm that go the whole way, through the ledger and its monitors."""
NOW_US: Final = 1_700_000_000_000_000 // DAY_US * DAY_US + 20 * HOUR_US
_BINARY: Final = TargetRange(binary=True, low=0.0, high=1.0)
_BIG_FEATURES: Final = 100
_BIG_ARMS: Final = 20


def a_family(features: int) -> Family:
    """Gives a family of so many numeric features, which nothing was ever written for."""
    schema = Schema(tuple(Number(name=f"x{n}", unit="1", low=-1e9, high=1e9, description="") for n in range(features)))
    return Family(
        name="bench",
        summary="",
        schema=schema,
        target=Target(name="event", kind=TargetKind.BINARY, unit="1", low=0, high=1, description=""),
        row=_row_of(schema),
        rules=lambda _: RulesAnswer(0.5, 0.5, ()),
        rules_version="1",
        variants=(),
        confidence=lambda value: max(value, 1 - value),
        confidence_means="",
    )


def _row_of(schema: Schema) -> type:
    from collections import namedtuple

    return namedtuple("Row", schema.names)  # noqa: PYI024 - the features are not known before


@dataclass
class Running:
    """A cycle on a database of its own."""

    database: Database
    store: Store
    cycle: Cycle


@asynccontextmanager
async def a_cycle(
    folder: Path, family: Family, *, now_us: Callable[[], int] = lambda: NOW_US
) -> AsyncIterator[Running]:
    """Opens ledger, monitors, alerts and cycle as the hub does; `now_us` is their clock."""
    settings = MonitoringSettings()

    def family_of(name: str) -> Family | None:
        return family if name == family.name else None

    def describe(name: str) -> Described:
        return Described(_BINARY, family.schema) if name == family.name else UNKNOWN

    monitors = Monitors(family_of, lambda one: thresholds_of(one, settings, MONITORS_SHARE))
    registry = CollectorRegistry()
    with (
        open_database(sqlite_url(folder / "hub.sqlite")) as database,
        open_store(database, now_us=now_us, describe_family=describe, follow=monitors.follow) as store,
    ):
        async with alerting(database, settings, registry=registry, now_us=now_us) as alerts:
            yield Running(
                database,
                store,
                Cycle(
                    database,
                    alerts,
                    monitors,
                    families=family_of,
                    platform=lambda: Platform(families=(family.name,)),
                    metrics=MonitoringMetrics(registry),
                    now_us=now_us,
                ),
            )


def fold(connection: Connection, family: Family, decisions: int) -> int:
    """Writes totals and features of so many decisions, spread evenly over two hours; gives how many were folded."""
    chance = np.random.default_rng(1)
    sets = FeatureSets.load(connection)
    cells = {row.arm: int(row.cell) for row in connection.execute(select(CELLS))}
    share = decisions // (SPAN_MINUTES * ARMS)
    total = 0
    for name, cell in sorted(cells.items()):
        number = sets.id_of(family.name, name, family.schema)
        hours: dict[int, Statistics] = {}
        for minute in range(SPAN_MINUTES):
            start = NOW_US - (SPAN_MINUTES - minute) * MINUTE_US
            part = _decided(share, chance)
            features = FeatureStatistics.of_sizes(category_sizes(family.schema))
            features.add(chance.standard_normal((share, len(family.schema))).astype(np.float32))
            whole = _statistics(part, chance)
            hours.setdefault(start // HOUR_US * HOUR_US, Statistics()).merge(whole)
            bulk_insert(connection, WINDOWS, [(cell, MINUTE_US, start, *whole.as_columns())])
            bulk_insert(connection, FEATURE_WINDOWS, [(number, MINUTE_US, start, features.rows, features.pack())])
            total += share
        bulk_insert(connection, WINDOWS, [(cell, HOUR_US, start, *one.as_columns()) for start, one in hours.items()])
    return total


def _decided(count: int, chance: np.random.Generator) -> Decisions:
    values = chance.random(count)
    latencies = chance.gamma(2.0, 900.0, count).round()
    reasons = np.where(chance.random(count) < 0.01, 4, 0)
    return Decisions(values, np.maximum(values, 1 - values), latencies, reasons)


def _statistics(part: Decisions, chance: np.random.Generator) -> Statistics:
    outcomes: NDArray[np.float64] = (chance.random(len(part.values)) < part.values).astype(np.float64)
    one = Statistics(Tally.of_decisions(part, 1, _BINARY))
    one.observe(part)
    ones = np.ones(len(part.values), np.int64)
    costs = np.full(len(part.values), np.nan)
    one.tally.add(Tally.of_outcomes(Outcomes(ones, part.values, outcomes, costs), _BINARY))
    return one


async def _seconds(sizes: Sequence[int]) -> list[tuple[float, int]]:
    """Gives the median time of a cycle for each size of the aggregates, and how many decisions these hold.

    Rounds take turns, so that whatever else the machine does meets all sizes alike.
    """
    family = a_family(FEATURES)
    async with AsyncExitStack() as stack:
        states = []
        for decisions in sizes:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            running = await stack.enter_async_context(a_cycle(folder, family))
            # The monitors are past their reference in all states.
            await _feed(running, family, ARMS, FED)
            states.append((running, await running.database.write(fold, family, decisions)))
        taken: list[list[float]] = [[] for _ in sizes]
        for number in range(ROUNDS + 1):
            for (running, _), times in zip(states, taken, strict=True):
                began = time.perf_counter()
                await running.cycle.once()
                if number:  # the first cycle chooses its references
                    times.append(time.perf_counter() - began)
                assert running.cycle.report.findings
        return [(statistics.median(times), folded) for (_, folded), times in zip(states, taken, strict=True)]


async def _feed(running: Running, family: Family, arms: int, each: int) -> None:
    """Gives the monitors of every arm so many decisions, through the inbox and not through the ledger's rows."""
    chance = np.random.default_rng(2)
    number = 0
    for arm in range(arms):
        for start in range(0, each, 1000):
            count = min(1000, each - start)
            rows = chance.standard_normal((count, len(family.schema))).astype("<f4")
            values = chance.random(count)
            records = []
            for place in range(count):
                number += 1
                records.append(_record(family, number, f"arm{arm}", rows[place].tobytes(), float(values[place])))
            await running.store.append(records, "r")
            await running.cycle.feed()


def _record(family: Family, number: int, arm: str, packed: bytes, value: float) -> bytes:
    name = f"d-{number:08d}"
    decision = ledger_pb2.Decision(
        decision_id=name,
        tenant="t",
        family=family.name,
        # Before the time that the folded aggregates cover, so that both have windows of their own.
        assigned_at_unix_us=NOW_US - 3 * HOUR_US,
        features=packed,
        schema_digest=family.schema.digest,
        latency_us=1500,
        prediction=prediction_pb2.PredictResponse(
            decision_id=name,
            value=value,
            confidence=max(value, 1 - value),
            served_variant=arm,
            model_version="1",
            assignment=prediction_pb2.Assignment(arm=arm, propensity=1 / ARMS, revision=1),
        ),
    )
    return ledger_pb2.JournalRecord(decision=decision).SerializeToString()


def hub_memory_mb(_: int) -> float:
    """Gives the peak memory of a process that stores, feeds and checks 20 arms of 100 features past their reference."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))

    async def work() -> None:
        family = a_family(_BIG_FEATURES)
        with tempfile.TemporaryDirectory() as name:
            async with a_cycle(Path(name), family) as running:
                await _feed(running, family, _BIG_ARMS, FED)
                await running.cycle.once()

    asyncio.run(work())
    return peak_mb()


def cycle_seconds(sizes: Sequence[int]) -> list[tuple[float, int]]:
    """Gives the median time of a cycle over 20 features and two arms, and the decisions of its aggregates, by size."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    return asyncio.run(_seconds(sizes))


def measure(progress: Callable[[str], None], say: Callable[[str], None]) -> Iterator[Figure]:
    """Measures all figures of this topic."""
    many = int(os.environ.get("TURNOUT_BENCH_DECISIONS", str(MANY)))
    context = multiprocessing.get_context("spawn")
    progress(f"monitoring: a cycle after {FEW} and after {many} decisions")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        (few, few_decisions), (larger, many_decisions) = pool.submit(cycle_seconds, (FEW, many)).result()
    say(f"  a cycle over {FEATURES} features: {few:.3f} s after {few_decisions}, {larger:.3f} s after {many_decisions}")
    yield Figure("monitoring_cycle_s", larger, "s", 1.0)
    yield Figure("monitoring_cycle_cost_ratio", larger / few, "ratio", 1.2)
    progress(f"monitoring: memory of a hub with {_BIG_ARMS} arms of {_BIG_FEATURES} features")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        yield Figure("monitor_hub_memory_mb", pool.submit(hub_memory_mb, 0).result(), "MB", 300)


TOPIC: Final = Topic(NAMES, measure)

if __name__ == "__main__":
    for figure in measure(print, print):
        print(figure.as_object())
