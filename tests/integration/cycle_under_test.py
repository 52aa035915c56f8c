"""A check cycle with real parts: ledger, monitors, alerts and database, with traffic and a clock that a test moves."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry

from bentos.family import Family, RulesAnswer, Target, TargetKind
from bentos.schema import Category, Number, Schema
from bentos.thresholds import Thresholds
from monitoring.alerting import Alerting, alerting
from monitoring.cycle.calls import CycleCalls
from monitoring.cycle.limits import MONITORS_SHARE, thresholds_of
from monitoring.cycle.monitors import Monitors
from monitoring.cycle.platform import Platform
from monitoring.cycle.routers import RouterBook
from monitoring.cycle.running import Cycle
from monitoring.ledger.families import UNKNOWN, Described
from monitoring.ledger.store import Store, open_store
from monitoring.ledger.tally import TargetRange
from monitoring.metrics import MonitoringMetrics
from monitoring.service import MONITORING, monitoring_service
from services.runtime.database import Database, open_database
from services.runtime.grpc_binding import bind
from services.runtime.identity import everybody
from services.runtime.monitoring_config import MonitoringSettings
from services.runtime.serving import serving
from tests.integration.alerts_under_test import Clock
from turnout.v1 import ledger_pb2, prediction_pb2


class Row(NamedTuple):
    """Features of the family of these tests."""

    a: float
    b: float
    c: float
    kind: float


TOY = Family(
    name="toy",
    summary="A family that nothing was ever written for.",
    schema=Schema(
        (
            *(Number(name=name, unit="1", low=-1e6, high=1e6, description=name) for name in "abc"),
            Category(name="kind", values=("x", "y", "z"), description="kind"),
        )
    ),
    target=Target(name="event", kind=TargetKind.BINARY, unit="1", low=0, high=1, description="whether it happens"),
    row=Row,
    rules=lambda _: RulesAnswer(0.5, 0.5, ("always",)),
    rules_version="1",
    variants=(),
    confidence=lambda value: max(value, 1 - value),
    confidence_means="share of right answers",
    # The outcomes are half chance: the model is rightly unsure, and rightly wrong, more often than one would want.
    thresholds=Thresholds(
        reference_decisions=1000, low_confidence_rate=0.95, accuracy=0.5, false_alarm_rate=0.05, minimum_decisions=200
    ),
)
SETTINGS = MonitoringSettings.model_validate(
    {
        "cycle_seconds": 60,
        "thresholds": {"f1": 0.0, "accuracy": 0.3, "accuracy_critical": 0.1},
        "rules": {"feature_drift": {"recover_seconds": 1}, "concept_drift": {"recover_seconds": 1}},
    }
)


@dataclass
class Traffic:
    """Seeded decisions of one arm; a batch of 250 takes a minute of the test's time."""

    store: Store
    clock: Clock
    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    number: int = 0
    arm: str = "model"
    variant: str = "model"
    version: str = "toy:1"
    revision: int = 1
    shift: float = 0.0
    """Added to feature b, which no outcome depends on."""
    turned: bool = False
    """Whether the outcome depends on feature a the other way round."""
    fallback: int = 0
    latency_us: int = 2000
    change: Callable[[Any], None] = lambda _: None
    """What happens to the features, the matrix of a batch, on their way."""
    says: Callable[[Any], Any] = lambda values: values
    """What the model makes of the probabilities that it should say."""

    async def run(self, decisions: int) -> None:
        """Sends decisions with their outcomes, and lets time pass."""
        while decisions > 0:
            count = min(decisions, 250)
            decisions -= count
            self.clock.forward(60)
            await self.store.append(self.records(count), "r1")

    def records(self, count: int) -> list[bytes]:
        """Gives the records of a batch: decisions, then their outcomes."""
        rows = self.chance.normal(size=(count, 4)).astype("<f4")
        rows[:, 1] += self.shift
        rows[:, 3] = self.chance.integers(0, 3, count)
        self.change(rows)
        values = 1 / (1 + np.exp(-1.5 * rows[:, 0].astype(float)))
        truth = 1 - values if self.turned else values
        outcomes = self.chance.random(count) < truth
        values = self.says(values)
        found: list[bytes] = []
        late: list[bytes] = []
        for place in range(count):
            self.number += 1
            at = self.clock.now_us - (count - place) * 1000
            name = f"d-{self.number:07d}"
            decision = ledger_pb2.Decision(
                decision_id=name,
                tenant="north",
                family="toy",
                assigned_at_unix_us=at,
                features=rows[place].tobytes(),
                schema_digest=TOY.schema.digest,
                latency_us=self.latency_us,
                prediction=prediction_pb2.PredictResponse(
                    decision_id=name,
                    value=values[place],
                    confidence=max(values[place], 1 - values[place]),
                    served_variant="rules" if self.fallback else self.variant,
                    model_version=self.version,
                    fallback=prediction_pb2.FallbackReason.ValueType(self.fallback),
                    assignment=prediction_pb2.Assignment(arm=self.arm, propensity=0.5, revision=self.revision),
                ),
            )
            outcome = ledger_pb2.Outcome(
                decision_id=name,
                tenant="north",
                value=float(outcomes[place]),
                occurred_at_unix_us=at + 1,
                recorded_at_unix_us=at + 1,
            )
            found.append(ledger_pb2.JournalRecord(decision=decision).SerializeToString())
            late.append(ledger_pb2.JournalRecord(outcome=outcome).SerializeToString())
        return found + late


def family_of(name: str) -> Family | None:
    return TOY if name == "toy" else None


def describe(name: str) -> Described:
    return Described(TargetRange(binary=True, low=0, high=1), TOY.schema) if name == "toy" else UNKNOWN


@dataclass
class Stage:
    """Everything that runs."""

    database: Database
    store: Store
    alerts: Alerting
    monitors: Monitors
    cycle: Cycle
    clock: Clock
    traffic: Traffic
    registry: CollectorRegistry
    platform: list[Platform]
    """The last one is what the cycle sees."""

    def firing(self) -> set[tuple[str, str]]:
        """Gives type and feature or variant of what fires."""
        found: set[tuple[str, str]] = set()
        for alert in self.alerts.engine.active():
            labels = alert.labels
            found.add((alert.type.value, labels.get("feature") or labels.get("variant") or labels.get("arm", "")))
        return found

    def types(self) -> set[str]:
        """Gives the types of what fires."""
        return {kind for kind, _ in self.firing()}


@contextlib.asynccontextmanager
async def served(stage: Stage, books: RouterBook | None = None) -> AsyncIterator[str]:
    """Serves MonitoringService of a stage on a free loopback port; gives the address."""
    calls = CycleCalls(stage.cycle, books or RouterBook(), now_us=stage.clock)
    implementation = monitoring_service(calls, *stage.alerts.calls(stopping=lambda: False))

    def handlers(_: object) -> list[Any]:
        return [bind(MONITORING, implementation, identify=everybody)]

    async with serving(handlers, "127.0.0.1:0", drain_seconds=1.0) as server:
        yield server.address


@contextlib.asynccontextmanager
async def a_stage(
    url: str, settings: MonitoringSettings = SETTINGS, clock: Clock | None = None
) -> AsyncIterator[Stage]:
    """Opens everything on a database."""
    clock = clock or Clock()
    registry = CollectorRegistry()
    declared: list[MonitoringSettings] = [settings]
    metrics = MonitoringMetrics(registry)
    monitors = Monitors(
        family_of, lambda family: thresholds_of(family, declared[-1], MONITORS_SHARE), predicted=metrics.predictions
    )
    platform = [Platform(families=("toy",))]
    with (
        open_database(url) as database,
        open_store(
            database, now_us=clock, clock=clock.seconds, describe_family=describe, follow=monitors.follow
        ) as store,
    ):
        async with alerting(database, settings, registry=registry, now_us=clock, clock=clock.seconds) as alerts:
            cycle = Cycle(
                database,
                alerts,
                monitors,
                families=family_of,
                platform=lambda: platform[-1],
                metrics=metrics,
                now_us=clock,
                clock=clock.seconds,
            )
            yield Stage(database, store, alerts, monitors, cycle, clock, Traffic(store, clock), registry, platform)
