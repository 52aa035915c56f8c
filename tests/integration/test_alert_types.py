"""Each type of alert from the ledger's records through the check cycle: raised, told where, resolved by recovery."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from monitoring.alerts.alert import Alert
from monitoring.alerts.kinds import AlertType, EventKind, State
from monitoring.alerts.lifecycle import RECOVERY
from monitoring.alerts.reading import find_alert
from monitoring.cycle.platform import Platform, Served, Split
from services.cli.main import FAILED, WRONG_INPUT, run
from services.runtime.database import sqlite_url
from services.runtime.database.sqlite import run_outside_transaction
from services.runtime.errors import Unavailable
from services.runtime.monitoring_config import MonitoringSettings
from tests.integration.cycle_under_test import SETTINGS, Stage, a_stage, served

STEP = 500
"""Decisions between two cycles; two minutes of the test's time."""
PATIENCE = 60
"""Steps after which an alert that does not come, or does not go, is missing."""
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Scenario:
    """What is wrong for a while, and where the alert says that it is."""

    labels: dict[str, str]
    begin: Callable[[Stage], Any]
    end: Callable[[Stage], Any]
    thresholds: dict[str, float] | None = None


def _set(**values: Any) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        for name, value in values.items():
            setattr(stage.traffic, name, value)

    return change


def _holes(rows: Any) -> None:
    rows[::3, 2] = float("nan")


def _served(*, ready: bool = True, days: float = 0.0) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        trained = stage.clock.now_us - int(days * DAY_US)
        one = Served(family="toy", variant="model", trained_at_us=trained, ready=ready)
        stage.platform.append(Platform(families=("toy",), served=(one,)))

    return change


def _split(revision: int, **weights: float) -> Callable[[Stage], None]:
    """All units come to the arm `model`: what other weights make of that is up to the test."""

    def change(stage: Stage) -> None:
        stage.traffic.revision = revision
        split = Split(family="toy", experiment="toy", revision=revision, weights=weights)
        stage.platform.append(Platform(families=("toy",), splits=(split,)))

    return change


def _pragma(text: str) -> Callable[[Stage], None]:
    return lambda stage: run_outside_transaction(stage.database._connected.writer, text)


def _break(stage: Stage) -> None:
    def broken(_: object) -> Any:
        raise RuntimeError("a mistake in a monitor")

    stage.monitors.watch = broken  # type: ignore[method-assign, assignment]


def _mend(stage: Stage) -> None:
    del stage.monitors.watch  # the class's own


ARM = {"family": "toy", "experiment": "toy", "arm": "model"}
MODEL = {**ARM, "variant": "model"}
VARIANT = {"family": "toy", "variant": "model"}
SCENARIOS = {
    AlertType.PREDICTION_DRIFT: Scenario(MODEL, _set(says=lambda v: 0.2 + 0.8 * v), _set(says=lambda v: v)),
    AlertType.FEATURE_DRIFT: Scenario({"family": "toy", "feature": "b"}, _set(shift=1.0), _set(shift=0.0)),
    AlertType.CONCEPT_DRIFT: Scenario(MODEL, _set(turned=True), _set(turned=False)),
    AlertType.PERFORMANCE_DEGRADATION: Scenario(MODEL, _set(turned=True), _set(turned=False)),
    AlertType.DATA_QUALITY: Scenario(
        {"family": "toy", "feature": "c"}, _set(change=_holes), _set(change=lambda _: None)
    ),
    AlertType.HIGH_FALLBACK_RATE: Scenario(ARM, _set(fallback=4), _set(fallback=0)),
    AlertType.HIGH_ERROR_RATE: Scenario(ARM, _set(fallback=4), _set(fallback=0)),
    AlertType.LOW_CONFIDENCE: Scenario(
        ARM, _set(says=lambda v: 0.5 + 0.1 * (v - 0.5)), _set(says=lambda v: v), {"low_confidence_rate": 0.5}
    ),
    AlertType.HIGH_LATENCY: Scenario(ARM, _set(latency_us=90_000), _set(latency_us=2000)),
    AlertType.MODEL_UNAVAILABLE: Scenario(VARIANT, _served(ready=False), _served(ready=True)),
    AlertType.STALE_MODEL: Scenario(VARIANT, _served(days=100), _served(days=1)),
    AlertType.SAMPLE_RATIO_MISMATCH: Scenario(
        {"family": "toy", "experiment": "toy"}, _split(1, model=1.0, rules=1.0), _split(2, model=1.0, rules=0.0001)
    ),
    AlertType.DATABASE_UNAVAILABLE: Scenario({}, _pragma("PRAGMA query_only = ON"), _pragma("PRAGMA query_only = OFF")),
    AlertType.MONITORING_FAILED: Scenario({}, _break, _mend),
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(sqlite_url(tmp_path / "hub.sqlite"))


def _settings(scenario: Scenario) -> MonitoringSettings:
    said = SETTINGS.model_dump()
    said["thresholds"] |= scenario.thresholds or {}
    return MonitoringSettings.model_validate(said)


def _of(stage: Stage, kind: AlertType, labels: dict[str, str]) -> Alert | None:
    """Gives what fires for just this."""
    for alert in stage.alerts.engine.active():
        if alert.type is kind and dict(alert.labels) == labels and alert.state is State.FIRING:
            return alert
    return None


async def _step(stage: Stage) -> None:
    # A router keeps what the ledger refuses; here it is other traffic that counts.
    with contextlib.suppress(Unavailable):
        await stage.traffic.run(STEP)
    await stage.cycle.once()


@pytest.mark.parametrize("kind", SCENARIOS, ids=lambda kind: kind.value)
async def test_it_is_raised_where_it_is_and_resolved_by_recovery(url: str, kind: AlertType) -> None:
    """Nothing before; an alert with a sentence and the right labels while it is wrong; resolved once it is right."""
    scenario = SCENARIOS[kind]
    async with a_stage(url, _settings(scenario)) as stage:
        for _ in range(4):
            await _step(stage)
        assert stage.types() == set()

        scenario.begin(stage)
        for _ in range(PATIENCE):
            await _step(stage)
            alert = _of(stage, kind, scenario.labels)
            if alert is not None:
                break
        assert alert is not None, stage.firing()
        assert alert.summary

        scenario.end(stage)
        for _ in range(PATIENCE):
            await _step(stage)
            if _of(stage, kind, scenario.labels) is None:
                break

        known, events = await stage.database.read(find_alert, alert.id)
        assert known is not None
        assert (known.state, known.resolved_by) == (State.RESOLVED, RECOVERY)
        assert [event.kind for event in events][-1] is EventKind.RESOLVED


@pytest.mark.parametrize("arm", ["rules", "model"])
async def test_how_sure_the_rules_are_raises_nothing(url: str, arm: str) -> None:
    """LOW_CONFIDENCE is about models: neither the arm of the rules nor answers of the rules for a model count."""
    async with a_stage(url, _settings(SCENARIOS[AlertType.LOW_CONFIDENCE])) as stage:
        for _ in range(4):
            await _step(stage)
        # The rules answer from now on, and are unsure every time: on purpose, or since the model is away.
        _set(says=lambda v: 0.5 + 0.1 * (v - 0.5))(stage)
        _set(arm="rules", variant="rules")(stage) if arm == "rules" else _set(fallback=4)(stage)
        for _ in range(8):
            await _step(stage)
        assert AlertType.LOW_CONFIDENCE.value not in stage.types()
        assert (AlertType.HIGH_FALLBACK_RATE.value in stage.types()) is (arm == "model")


async def test_a_training_that_fails_tells_and_the_next_one_that_works_ends_it(url: str, tmp_path: Path) -> None:
    """`turnout train --report`: RETRAINING_FAILED says why, through cycles that know nothing of it, until it works."""
    config = tmp_path / "turnout.yaml"
    async with a_stage(url) as stage, served(stage) as hub:

        async def train(*more: str) -> int:
            chosen = ("--calls", "300", "--variants", "xgboost", "--report", "--hub", hub, "-c", str(config))
            return await asyncio.to_thread(run, ["train", "dispatch", *chosen, *more])

        labels = {"family": "dispatch", "variant": "xgboost"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TURNOUT_HOME", str(tmp_path / "home"))
            assert await train("--data", str(tmp_path / "nowhere.csv")) == WRONG_INPUT
            await _step(stage)
            alert = _of(stage, AlertType.RETRAINING_FAILED, labels)
            assert alert is not None
            assert alert.summary.startswith("training dispatch failed: ")
            assert "nowhere.csv is not a file" in alert.summary

            assert await train() == 0
        assert _of(stage, AlertType.RETRAINING_FAILED, labels) is None
        assert config.exists()


async def test_who_cannot_tell_the_hub_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hub that is away hides no failure of the training; without a file and --hub nothing begins."""
    train = ["train", "dispatch", "--data", str(tmp_path / "nowhere.csv"), "--report", "-c", str(tmp_path / "no.yaml")]
    assert await asyncio.to_thread(run, [*train, "--hub", "127.0.0.1:1"]) == WRONG_INPUT
    told = capsys.readouterr().err
    assert "the hub was not told: the hub at 127.0.0.1:1 cannot be reached" in told
    assert "nowhere.csv is not a file" in told
    assert await asyncio.to_thread(run, train) == FAILED
    assert "no.yaml does not exist" in capsys.readouterr().err
    assert await asyncio.to_thread(run, [*train, "--dry-run"]) == WRONG_INPUT
    assert "--report tells of new bentos" in capsys.readouterr().err


def test_every_type_has_a_test() -> None:
    """A type that is added without a way to raise and to end it fails here; training tells by itself."""
    assert set(SCENARIOS) | {AlertType.RETRAINING_FAILED} == set(AlertType)
