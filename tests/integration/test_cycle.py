"""The check cycle from traffic to alerts, with real parts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import Connection, inspect

from monitoring.cycle.health import Dimension, State
from monitoring.cycle.platform import Platform, Served, Split, Training
from monitoring.cycle.running import cycling
from monitoring.cycle.tables import METADATA
from monitoring.drift.results import Window
from services.runtime.database import open_database, sqlite_url
from services.runtime.database.sqlite import run_outside_transaction
from services.runtime.errors import Unavailable
from services.runtime.monitoring_config import MonitoringSettings
from tests.integration.alerts_under_test import a_web_server, hang, status
from tests.integration.cycle_under_test import SETTINGS, Stage, a_stage


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(sqlite_url(tmp_path / "hub.sqlite"))


async def _run(stage: Stage, decisions: int, every: int = 500) -> None:
    """Sends traffic with a cycle after each `every` decisions."""
    for _ in range(decisions // every):
        await stage.traffic.run(every)
        await stage.cycle.once()


async def test_a_shift_in_one_feature_reaches_a_webhook_and_its_end_resolves_the_alert(url: str) -> None:
    """Traffic shifts in one feature; FEATURE_DRIFT names it, a real web server hears of it, recovery ends it."""
    async with a_web_server() as web:
        settings = MonitoringSettings.model_validate(
            SETTINGS.model_dump() | {"handlers": {"hook": {"webhook": {"url": web.url}, "min_severity": "info"}}}
        )
        async with a_stage(url, settings) as stage:
            await _run(stage, 2000)
            assert stage.types() == set()
            stage.traffic.shift = 1.0
            await _run(stage, 1500)
            # The joint test of all features sees it too.
            assert ("feature_drift", "b") in stage.firing()
            assert stage.types() == {"feature_drift"}
            async with asyncio.timeout(10):
                await web.arrived.wait()
            told = json.loads(web.received[0].body)
            assert "feature_drift" in json.dumps(told)
            stage.traffic.shift = 0.0
            for _ in range(40):
                await _run(stage, 500)
                if not stage.types():
                    break
            assert stage.types() == set()
            async with asyncio.timeout(10):
                while not any(b"resolved" in one.body for one in web.received):
                    await asyncio.sleep(0.01)


async def test_a_webhook_that_misbehaves_hears_of_it_at_last_and_blocks_no_other(url: str) -> None:
    """From the cycle to two webhooks: one answers 500, redirects, hangs, and then takes the news once; one works."""
    async with (
        a_web_server() as trap,
        a_web_server(status(500), status(302, f"Location: {trap.url}"), hang, status(200)) as bad,
        a_web_server() as good,
    ):
        hooks = {
            name: {"webhook": {"url": web.url}, "min_severity": "info", "timeout_seconds": 0.2}
            for name, web in (("bad", bad), ("good", good))
        }
        settings = MonitoringSettings.model_validate(SETTINGS.model_dump() | {"handlers": hooks})
        async with a_stage(url, settings) as stage:
            served = Served(family="toy", variant="model", trained_at_us=1, ready=True)
            stage.platform.append(Platform(families=("toy",), served=(served,)))
            failures: list[str] = []
            async with asyncio.timeout(30):
                await stage.cycle.once()
                await good.arrived.wait()
                while len(bad.received) < 4:
                    (tally,) = [one.worker.tally for one in stage.alerts.deliveries.status() if one.name == "bad"]
                    if len(failures) < tally.failed:
                        failures.append(tally.last_error)
                        # Time passes, and each cycle has the handlers look again at what is due.
                        stage.clock.forward(30)
                        await stage.cycle.once()
                    await asyncio.sleep(0.01)
                while any(one.worker.waiting for one in stage.alerts.deliveries.status()):
                    await asyncio.sleep(0.01)
    assert failures == [
        "answered 500",
        "answered 302, a redirect, which is not followed",
        "no answer within 0.2 s",
    ]
    # The same news each time, so that who took it before the line broke knows it again.
    assert len({one.headers["idempotency-key"] for one in (*bad.received, *good.received)}) == 1
    assert (len(bad.received), len(good.received), trap.received) == (4, 1, [])
    assert json.loads(bad.received[-1].body)["alerts"][0]["type"] == "stale_model"


async def test_a_shift_of_the_inputs_alone_is_no_concept_drift(url: str) -> None:
    """P(x) shifts and P(y|x) stays: feature drift, no concept drift, no loss of performance."""
    async with a_stage(url) as stage:
        await _run(stage, 2000)
        stage.traffic.shift = 1.0
        await _run(stage, 3000)
        assert "feature_drift" in stage.types()
        assert not stage.types() & {"concept_drift", "performance_degradation"}


async def test_a_change_of_the_concept_alone_is_no_feature_drift(url: str) -> None:
    """P(y|x) changes and P(x) stays: concept drift and loss of performance, no feature drift."""
    async with a_stage(url) as stage:
        await _run(stage, 2000)
        stage.traffic.turned = True
        await _run(stage, 3000)
        assert {"concept_drift", "performance_degradation"} <= stage.types()
        assert not stage.types() & {"feature_drift", "prediction_drift", "data_quality"}
        model = next(p for p in stage.cycle.health.parts if p.dimension is Dimension.MODEL and p.family)
        assert model.state is State.DEGRADED
        assert any("toy" in reason for reason in model.reasons)


async def test_each_decision_is_watched_once_whatever_restarts(database_url: str) -> None:
    """Batches that were stored before a restart are watched after it, and those that were watched are not again."""
    async with a_stage(database_url) as stage:
        await stage.traffic.run(500)
        assert await stage.cycle.feed()
        await stage.traffic.run(250)
        traffic, clock = stage.traffic, stage.clock
    async with a_stage(database_url, clock=clock) as stage:
        traffic.store, stage.traffic = stage.store, traffic
        assert await stage.cycle.feed()
        (one,) = stage.monitors.watch(stage.database).standings
        assert one.decisions == 750
        await stage.cycle.feed()
        (one,) = stage.monitors.watch(stage.database).standings
        assert one.decisions == 750


async def test_a_batch_that_comes_twice_is_watched_once(url: str) -> None:
    """What the ledger counts as a duplicate no monitor sees."""
    async with a_stage(url) as stage:
        stage.clock.forward(60)
        records = stage.traffic.records(250)
        await stage.store.append(records, "r1")
        await stage.store.append(records, "r1")
        await stage.cycle.feed()
        (one,) = stage.monitors.watch(stage.database).standings
        assert one.decisions == 250


async def test_a_restart_changes_no_result(tmp_path: Path) -> None:
    """Monitors whose states went through the database say what they would have said without."""
    found = []
    for restarts in (False, True):
        url = str(sqlite_url(tmp_path / f"{restarts}.sqlite"))
        async with a_stage(url) as stage:
            for _ in range(6):
                await stage.traffic.run(500)
                await stage.cycle.feed()
                if restarts:
                    stage.monitors._memory = None
            (one,) = stage.monitors.watch(stage.database).standings
            found.append(one.results)
    assert found[0] == found[1]


async def test_a_new_version_begins_a_new_reference(url: str) -> None:
    """Decisions of another version are no drift of the one before."""
    async with a_stage(url) as stage:
        await _run(stage, 1500)
        stage.traffic.version = "toy:2"
        await _run(stage, 500)
        assert {one.key.version: one.decisions for one in stage.monitors.watch(stage.database).standings} == {
            "toy:1": 1500,
            "toy:2": 500,
        }
        assert stage.types() == set()


async def test_rates_over_their_limits(url: str) -> None:
    """Fallbacks after failures raise fallback and error rate, slow answers the latency; calm ends them."""
    async with a_stage(url) as stage:
        await _run(stage, 1500)
        stage.traffic.fallback, stage.traffic.latency_us = 4, 90_000
        await _run(stage, 1500)
        assert {"high_fallback_rate", "high_error_rate", "high_latency"} <= stage.types()
        parts = {p.dimension: p for p in stage.cycle.health.parts if p.family}
        assert parts[Dimension.FALLBACK].state is State.UNHEALTHY
        assert parts[Dimension.PREDICTIONS].state is State.UNHEALTHY


async def test_a_model_is_held_against_the_limits_of_quality_and_the_rules_are_not(url: str) -> None:
    """A bad model is an alert; the rules are what models are compared with, and would only ever stand there."""
    limits = {"f1": 0.99, "accuracy": 0.99, "accuracy_critical": 0.98}
    settings = MonitoringSettings.model_validate(SETTINGS.model_dump() | {"thresholds": limits})
    async with a_stage(url, settings) as stage:
        await _run(stage, 1000)
        stage.traffic.arm = stage.traffic.variant = "rules"
        await _run(stage, 1000)
        assert stage.firing() == {("performance_degradation", "model")}


async def test_missing_values_and_new_categories_are_data_quality(url: str) -> None:
    """A feature that goes missing raises DATA_QUALITY under its name."""
    async with a_stage(url) as stage:
        await _run(stage, 2000)

        def holes(rows: object) -> None:
            rows[::3, 2] = float("nan")  # type: ignore[index]

        stage.traffic.change = holes
        await _run(stage, 1500)
        assert ("data_quality", "c") in stage.firing()


@pytest.mark.parametrize("shift", [0.0, 3.0])
async def test_what_the_training_never_saw_is_told_from_the_first_rows_on(url: str, shift: float) -> None:
    """Feature b is far from the bounds of the bento from the start: no change shows it, the manifest does."""
    async with a_stage(url) as stage:

        def trained(**others: tuple[float, float]) -> None:
            bounds = dict.fromkeys("abc", (-3.1, 3.1)) | {"kind": (0.0, 0.5)} | others
            training = Training(bounds=bounds, rows=10_000, since_s=1e9, until_s=2e9)
            served = Served(family="toy", variant="model", trained_at_us=None, ready=True, training=training)
            stage.platform.append(Platform(families=("toy",), served=(served,)))

        trained()
        stage.traffic.shift = shift
        await _run(stage, 500)
        assert stage.firing() == ({("data_quality", "b")} if shift else set())
        found = [one.result for one in stage.cycle.report.findings if one.result.subject.endswith("outside training")]
        # Codes of categories have no bounds.
        assert [one.subject for one in found] == [f"{name}: outside training" for name in "abc"]
        assert found[0].reference == Window(10_000, 1e9, 2e9)
        await _run(stage, 3000)
        assert stage.firing() == ({("data_quality", "b")} if shift else set())
        # A training that has seen it ends it.
        trained(b=(shift - 3.1, shift + 3.1))
        await _run(stage, 3500)
        assert stage.firing() == set()


async def test_arms_that_do_not_get_their_shares(url: str) -> None:
    """Two arms of equal weights whose units come one to three are a mismatch; those of fitting weights are none."""
    async with a_stage(url) as stage:
        for share, arm in ((250, "model"), (750, "rules")):
            stage.traffic.arm = stage.traffic.variant = arm
            await stage.traffic.run(share)
        for weights, expected in (({"model": 1.0, "rules": 3.0}, False), ({"model": 1.0, "rules": 1.0}, True)):
            split = Split(family="toy", experiment="toy", revision=1, weights=weights)
            stage.platform.append(Platform(families=("toy",), splits=(split,)))
            await stage.cycle.once()
            assert ("sample_ratio_mismatch" in stage.types()) is expected


async def test_models_that_are_away_or_old(url: str) -> None:
    """A variant that no router reaches and one that was trained long ago are told, and health says which."""
    async with a_stage(url) as stage:
        old = stage.clock.now_us - 100 * 86_400_000_000
        stage.platform.append(
            Platform(
                families=("toy",),
                served=(
                    Served(family="toy", variant="away", trained_at_us=None, ready=False),
                    Served(family="toy", variant="old", trained_at_us=old, ready=True),
                    Served(family="toy", variant="asleep", trained_at_us=None, ready=False, sleeps=True),
                ),
            )
        )
        await stage.cycle.once()
        stage.clock.forward(61)
        await stage.cycle.once()
        assert stage.firing() == {("model_unavailable", "away"), ("stale_model", "old")}
        model = next(p for p in stage.cycle.health.parts if p.dimension is Dimension.MODEL and p.family)
        assert model.state is State.DEGRADED


async def test_a_database_that_refuses_and_comes_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads or writes that fail in the middle of a cycle are told in health and as an alert; the next cycle works."""
    async with a_stage(url) as stage:
        await _run(stage, 1000)
        whole = stage.cycle.health
        real_read, real_write = stage.database.read_now, stage.database.write_now

        def refuse(*_: object, **__: object) -> object:
            raise Unavailable("", "the database is away")

        await stage.traffic.run(250)
        monkeypatch.setattr(stage.database, "read_now", refuse)
        monkeypatch.setattr(stage.database, "write_now", refuse)
        with structlog.testing.capture_logs() as lines:
            await stage.cycle.once()
        assert any(line["event"].startswith("check cycle failed") and line["log_level"] == "error" for line in lines)
        database = stage.cycle.health.parts[0]
        assert (database.dimension, database.state) == (Dimension.DATABASE, State.UNHEALTHY)
        # What was known of models and answers stands.
        assert [part for part in stage.cycle.health.parts if part.family] == [p for p in whole.parts if p.family]
        assert {alert.type.value for alert in stage.alerts.engine.active()} >= {"database_unavailable"}

        monkeypatch.setattr(stage.database, "read_now", real_read)
        await stage.cycle.once()
        assert stage.cycle.health.parts[0].reasons[0].startswith("the database cannot be written")

        monkeypatch.setattr(stage.database, "write_now", real_write)
        stage.clock.forward(120)
        await stage.cycle.once()
        assert stage.cycle.health.state is State.HEALTHY
        (one,) = stage.monitors.watch(stage.database).standings
        assert one.decisions == 1250
        stage.clock.forward(120)
        await stage.cycle.once()
        assert stage.types() == set()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("PRAGMA query_only = ON", "PRAGMA query_only = OFF"),
        # SQLite takes the present size instead of 1: the file may not grow any more.
        ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000"),
    ],
    ids=["read-only", "full"],
)
async def test_a_database_that_is_read_only_or_full(url: str, before: str, after: str) -> None:
    """A file that takes no writes any more is said so; when it does again, everything that waited is watched."""
    async with a_stage(url) as stage:
        await stage.traffic.run(500)
        writer = stage.database._connected.writer
        await stage.database.exclusively(lambda: run_outside_transaction(writer, before))
        await stage.cycle.once()
        database = stage.cycle.health.parts[0]
        assert database.state is State.UNHEALTHY
        assert database.reasons[0].startswith("the database cannot be written")
        await stage.database.exclusively(lambda: run_outside_transaction(writer, after))
        await stage.cycle.once()
        (one,) = stage.monitors.watch(stage.database).standings
        assert one.decisions == 500


@pytest.mark.parametrize("part", ["monitors.watch", "cycle.platform", "cycle.families"])
async def test_a_cycle_that_breaks_is_told_and_the_next_one_works(
    url: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A mistake in any part raises MONITORING_FAILED, whatever it says, blames no database, and ends with the next."""
    async with a_stage(url) as stage:
        await _run(stage, 500)
        owner, _, name = part.partition(".")

        def broken(*_: object) -> object:
            raise RuntimeError("\0" + "é" * 2000)

        with monkeypatch.context() as patch:
            patch.setattr(getattr(stage, owner), name, broken)
            await stage.cycle.once()
        assert stage.types() == {"monitoring_failed"}
        assert stage.cycle.health.parts[0].reasons[0].startswith("the check cycle failed")
        assert any(part.family for part in stage.cycle.health.parts)
        await stage.cycle.once()
        assert stage.cycle.health.state is State.HEALTHY
        assert stage.types() == set()


async def test_a_cycle_that_breaks_off_ends_no_other(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even what nothing catches — alerts themselves that break — costs one cycle only."""
    async with a_stage(url) as stage:
        real = stage.alerts.engine.observe
        attempts = []

        async def breaks_once(*given: Any) -> Any:
            attempts.append(given)
            if len(attempts) == 1:
                raise RuntimeError("no")
            return await real(*given)

        monkeypatch.setattr(stage.alerts.engine, "observe", breaks_once)
        async with cycling(stage.cycle), asyncio.timeout(20):
            while not attempts:
                await asyncio.sleep(0.01)
            assert stage.cycle.health.state is None
            while not stage.cycle.health.checked_at_us:
                stage.clock.forward(5)
                await asyncio.sleep(0.01)


async def test_cycles_follow_the_settings_at_run_time(url: str) -> None:
    """The running loop takes a shorter interval over from a change of the settings."""
    async with a_stage(url) as stage, cycling(stage.cycle):
        async with asyncio.timeout(20):
            while not stage.cycle.health.checked_at_us:
                await asyncio.sleep(0.01)
            first = stage.cycle.health.checked_at_us
            shorter = stage.cycle.settings.model_copy(update={"cycle_seconds": 1})
            revision = stage.alerts.settings.newest.revision
            await stage.alerts.settings.change(shorter, base_revision=revision, who="test", why="test")
            stage.clock.forward(2)
            while stage.cycle.health.checked_at_us == first:
                await asyncio.sleep(0.01)


async def test_a_fresh_start_is_told_within_seconds_and_then_by_the_settings(url: str) -> None:
    """The pauses between the first cycles double from 5 s up to `cycle_seconds`, and health says when the next is."""
    async with a_stage(url) as stage, cycling(stage.cycle):
        pauses = []
        for _ in range(6):
            async with asyncio.timeout(20):
                while not stage.cycle.health.next_check_us > stage.clock.now_us:
                    await asyncio.sleep(0.01)
            found = stage.cycle.health
            pauses.append((found.next_check_us - found.checked_at_us) / 1e6)
            stage.clock.now_us = found.next_check_us
        assert pauses == [5, 10, 20, 40, 60, 60]


async def test_what_cannot_be_told_yet_is_said(url: str) -> None:
    """Before any traffic, before any router, and after traffic has ceased: healthy, with the reason why so little."""
    async with a_stage(url) as stage:
        served = (Served(family="toy", variant="model", trained_at_us=None, ready=None),)
        stage.platform.append(Platform(families=("toy",), served=served))
        await stage.cycle.once()
        reasons = {part.dimension: part.reasons for part in stage.cycle.health.parts if part.family}
        assert reasons == {
            Dimension.MODEL: ("no router has told yet which variants it reaches",),
            Dimension.PREDICTIONS: ("no traffic seen yet",),
            Dimension.FALLBACK: (),
        }
        assert stage.cycle.health.state is State.HEALTHY
        await stage.traffic.run(250)
        await stage.cycle.once()
        told = {part.dimension: part.reasons for part in stage.cycle.health.parts if part.family}
        assert told[Dimension.PREDICTIONS] == ()
        for days in (0, 30):
            stage.clock.forward(days * 86_400 + 1000)
            await stage.cycle.once()
            told = {part.dimension: part.reasons for part in stage.cycle.health.parts if part.family}
            assert told[Dimension.PREDICTIONS] == ("no decision in the last 15 minutes",)


async def test_looks_at_nothing_take_no_share_of_the_false_alarms(url: str) -> None:
    """The first look at decisions has the first look's share, however long there were none."""
    async with a_stage(url) as stage:
        for _ in range(3):
            await stage.cycle.once()
            assert stage.cycle._memory
            assert stage.cycle._memory.looks["toy"] == 0
        await stage.traffic.run(250)
        await stage.cycle.once()
        assert stage.cycle._memory
        assert stage.cycle._memory.looks["toy"] == 1


async def test_what_was_predicted_is_counted_once(url: str) -> None:
    """`ml_predictions_total` follows the ledger: by variant and prediction, a repeated batch adds nothing."""
    async with a_stage(url) as stage:
        records = stage.traffic.records(250)
        for _ in range(2):
            await stage.store.append(records, "r1")
            await stage.cycle.feed()
        counts = {
            name: stage.registry.get_sample_value(
                "ml_predictions_total", {"model_name": "toy/model", "prediction": name}
            )
            for name in ("positive", "negative")
        }
        assert sum(count or 0 for count in counts.values()) == 250
        assert all(counts.values())


def test_the_migration_makes_the_declared_table(database_url: str) -> None:
    """Columns and keys of the inbox are those that the code's own declaration would make."""
    with open_database(database_url) as database:

        def shape(connection: Connection) -> list[object]:
            seen = inspect(connection)
            (name,) = METADATA.tables
            columns = [(c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(name)]
            return [columns, seen.get_pk_constraint(name)["constrained_columns"], seen.get_indexes(name)]

        def anew(connection: Connection) -> list[object]:
            METADATA.drop_all(connection)
            METADATA.create_all(connection)
            return shape(connection)

        assert database.read_now(shape) == database.write_now(anew)
