"""Alerts on a real database: they survive a restart, an absence of the database, and everything at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, inspect, text

from monitoring.alerts import engine as alert_engine
from monitoring.alerts.book import MAX_ACTIVE
from monitoring.alerts.conditions import Verdict
from monitoring.alerts.engine import AlertEngine
from monitoring.alerts.kinds import DEFAULT_RULES, SECOND_US, AlertType, EventKind, Severity, State
from monitoring.alerts.reading import Filter, count_alerts, find_alert, list_alerts
from monitoring.alerts.silences import Matcher, Operator
from monitoring.alerts.tables import METADATA
from monitoring.alerts.telling import Audience
from services.runtime.database import Database, open_database
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from tests.integration.alerts_under_test import Clock, a_condition, an_engine

EVERYTHING = {"ops": Audience(min_severity=Severity.INFO)}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with open_database(database_url) as opened:
        yield opened


class Flaky:
    """A database that refuses writes when told to; or hangs."""

    def __init__(self, real: Database) -> None:
        self.real = real
        self.away = False
        self.hangs: asyncio.Event | None = None
        self.writes = 0

    async def write(self, work: Callable[..., Any], *args: Any) -> Any:
        self.writes += 1
        if self.hangs is not None:
            await self.hangs.wait()
        if self.away:
            raise Unavailable("", "the database cannot be written")
        return await self.real.write(work, *args)

    async def read(self, work: Callable[..., Any], *args: Any) -> Any:
        return await self.real.read(work, *args)


def database_waits(engine: AlertEngine) -> bool:
    return engine.waiting_for_database


def test_the_migration_makes_exactly_these_tables(database: Database) -> None:
    """Columns, kinds, keys and indexes are those that the code's own declarations would make."""

    def shape(connection: Connection) -> dict[str, Any]:
        seen = inspect(connection)
        return {
            name: (
                [(c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(name)],
                seen.get_pk_constraint(name)["constrained_columns"],
                sorted((str(i["name"]), tuple(i["column_names"])) for i in seen.get_indexes(name)),
            )
            for name in METADATA.tables
        }

    def anew(connection: Connection) -> dict[str, Any]:
        METADATA.drop_all(connection)
        METADATA.create_all(connection)
        return shape(connection)

    assert database.read_now(shape) == database.write_now(anew)


async def test_a_restart_finds_everything_as_it_was(database: Database) -> None:
    """Active and resolved alerts, silences, sequences, and what each handler knows."""
    clock = Clock()
    engine = await an_engine(database, clock)
    engine.set_audiences(EVERYTHING)
    await engine.observe([a_condition(), a_condition(feature="age", severity=Severity.CRITICAL)])
    (first,) = engine.due("ops")
    await engine.took("ops", first)
    silence, covered = await engine.silence(
        (Matcher("feature", Operator.EQUAL, "age"),), until_us=clock() + 10**9, who="ann", why="works"
    )
    assert [alert.labels["feature"] for alert in covered] == ["age"]
    clock.forward(1)
    await engine.resolve(engine.active()[0].id, who="ann", why="known")
    again = await an_engine(database, clock)
    again.set_audiences(EVERYTHING)
    assert again.active() == engine.active()
    assert again.silences() == [silence]
    assert again.sequence == engine.sequence
    assert again.due("ops") == engine.due("ops")
    assert [item.news.value for n in again.due("ops") for item in n.items] == ["resolved"]


async def test_alerts_from_outside_leave_room_for_the_monitors_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who floods hears that there is no room, repetitions and recoveries still count, and the cycle's looks go on."""
    monkeypatch.setattr(alert_engine, "KEPT_FREE", MAX_ACTIVE - 2)
    engine = await an_engine(database, Clock())
    for feature in ("a", "b"):
        assert (await engine.report(a_condition(feature=feature)))[0] is not None
    with pytest.raises(ResourceExhausted, match="2 alerts are active"):
        await engine.report(a_condition(feature="c"))
    assert (await engine.report(a_condition(feature="b")))[0] is not None
    await engine.report(a_condition(feature="never", verdict=Verdict.CLEAR))
    observed = await engine.observe([a_condition(feature="c")])
    assert [event.kind for event in observed.events] == [EventKind.FIRED]


async def test_what_is_seen_while_the_database_is_away_is_kept_told_and_written_later(database: Database) -> None:
    """No look fails, handlers hear of it, and when the database is back a restart finds it."""
    clock, flaky = Clock(), Flaky(database)
    engine = await an_engine(flaky, clock)  # type: ignore[arg-type]  # behaves as one
    engine.set_audiences(EVERYTHING)
    flaky.away = True
    observed = await engine.observe([a_condition()])
    assert (observed.stored, [event.kind for event in observed.events]) == (False, [EventKind.FIRED])
    assert database_waits(engine)
    for notification in engine.due("ops"):
        await engine.took("ops", notification)
    clock.forward(10)
    alert, stored = await engine.report(a_condition(feature="age"))
    assert (alert is not None, stored) == (True, False)
    assert await database.read(list_alerts, Filter(), None, 10) == []
    flaky.away = False
    clock.forward(10)
    await engine.tick()
    assert not database_waits(engine)
    again = await an_engine(database, clock)
    again.set_audiences(EVERYTHING)
    assert again.active() == engine.active()
    assert again.due("ops") == engine.due("ops")
    assert len(again.due("ops")) == 1


async def test_a_real_database_that_refuses_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    """The table is gone, as on a damaged or read-only disk; when it is back, everything is written."""
    clock = Clock()
    with open_database(f"sqlite:///{tmp_path / 'hub.sqlite'}") as database:
        engine = await an_engine(database, clock)
        await database.write(lambda connection: connection.execute(text("ALTER TABLE alerts RENAME TO away")))
        assert not (await engine.observe([a_condition()])).stored
        clock.forward(1)
        assert not (await engine.observe([a_condition(severity=Severity.CRITICAL)])).stored
        await database.write(lambda connection: connection.execute(text("ALTER TABLE away RENAME TO alerts")))
        assert (await engine.observe([])).stored
        (alert,) = await database.read(list_alerts, Filter(), None, 10)
        assert alert == engine.active()[0]
        assert alert.severity is Severity.CRITICAL


async def test_a_database_that_hangs_gathers_no_queue(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One write is under way, looks go on without it, and everything is written in the end."""
    monkeypatch.setattr("monitoring.alerts.engine.SAVE_SECONDS", 0.01)
    clock, flaky = Clock(), Flaky(database)
    engine = await an_engine(flaky, clock)  # type: ignore[arg-type]  # behaves as one
    flaky.hangs = asyncio.Event()
    for feature in "abcde":
        assert not (await engine.observe([a_condition(feature=feature)])).stored
    assert flaky.writes == 1
    monkeypatch.setattr("monitoring.alerts.engine.SAVE_SECONDS", 10)
    flaky.hangs.set()
    assert await engine.flush()
    assert len(await database.read(list_alerts, Filter(), None, 10)) == 5


async def test_a_write_whose_answer_was_lost_may_be_repeated(database: Database) -> None:
    """Written twice is written once."""

    class Forgetful(Flaky):
        async def write(self, work: Callable[..., Any], *args: Any) -> Any:
            await self.real.write(work, *args)
            if self.away:
                raise Unavailable("", "the connection broke after the commit")

    clock, forgetful = Clock(), Forgetful(database)
    engine = await an_engine(forgetful, clock)  # type: ignore[arg-type]  # behaves as one
    forgetful.away = True
    await engine.observe([a_condition()])
    clock.forward(600)
    await engine.observe([a_condition(severity=Severity.CRITICAL)])
    forgetful.away = False
    await engine.tick()
    (alert,) = await database.read(list_alerts, Filter(), None, 10)
    _, events = await database.read(find_alert, alert.id)
    assert [event.kind for event in events] == [EventKind.FIRED, EventKind.ESCALATED]


async def test_history_is_filtered_paged_counted_and_pruned(database: Database) -> None:
    """Newest first, by family, type, severity, state and time; old resolved ones go, active ones stay."""
    clock = Clock()
    engine = await an_engine(database, clock)
    engine.set_audiences({})
    for number in range(7):
        clock.forward(1)
        await engine.observe([a_condition(feature=f"f{number}", kind=AlertType.DATA_QUALITY)])
    await engine.observe([a_condition(severity=Severity.CRITICAL)])
    clock.forward(50)
    for number in range(3):
        await engine.resolve(engine.active()[-1].id, who="ann", why=f"{number}")
    wanted = Filter(types=(AlertType.DATA_QUALITY,))
    first = await database.read(list_alerts, wanted, None, 4)
    rest = await database.read(list_alerts, wanted, (first[-1].started_at_us, first[-1].id), 10)
    assert [alert.labels["feature"] for alert in first + rest] == [f"f{number}" for number in range(6, -1, -1)]
    for narrow, count in (
        (Filter(history=False), 5),
        (Filter(min_severity=Severity.CRITICAL), 1),
        (Filter(states=(State.RESOLVED,)), 3),
        (Filter(family="other"), 0),
        (Filter(since_us=rest[0].started_at_us), 6),
    ):
        found = await database.read(list_alerts, narrow, None, 100)
        assert len(found) == count
        assert all(narrow.takes(alert) for alert in found)
    counts = await database.read(count_alerts, Filter())
    assert [(one.type, one.firing, one.resolved) for one in counts] == [
        (AlertType.DATA_QUALITY, 4, 3),
        (AlertType.FEATURE_DRIFT, 1, 0),
    ]
    assert 150 <= counts[0].seconds <= 171
    clock.forward(91 * 86_400)
    await engine.tidy(history_days=90)
    assert len(await database.read(list_alerts, Filter(), None, 100)) == 5
    rows = await database.read(lambda c: c.execute(text("SELECT COUNT(*) FROM alert_events")).scalar())
    assert rows == 5


async def test_what_a_handler_has_not_heard_of_is_not_pruned(database: Database) -> None:
    """However old it is."""
    clock = Clock()
    engine = await an_engine(database, clock)
    engine.set_audiences(EVERYTHING)
    await engine.observe([a_condition()])
    await engine.resolve(engine.active()[0].id, who="ann", why="x")
    clock.forward(100 * 86_400)
    await engine.tidy(history_days=90)
    (notification,) = engine.due("ops")
    await engine.took("ops", notification)
    clock.forward(120)
    await engine.tidy(history_days=90)
    await engine.tidy(history_days=90)
    assert engine.due("ops") == []


async def test_silences_begin_and_end(database: Database) -> None:
    """While one holds nothing is due; expired by hand, what still fires is. Bad ones are refused."""
    clock = Clock()
    engine = await an_engine(database, clock)
    engine.set_audiences(EVERYTHING)
    matchers = (Matcher("type", Operator.GLOB, "feature_*"),)
    silence, _ = await engine.silence(matchers, until_us=clock() + 60 * SECOND_US, who="ann", why="works")
    await engine.observe([a_condition()])
    assert engine.due("ops") == []
    clock.forward(1)
    await engine.expire(silence.id, who="ann")
    assert len(engine.due("ops")) == 1
    assert (engine.silences(), len(engine.silences(ended=True))) == ([], 1)
    with pytest.raises(FailedPrecondition):
        await engine.expire(silence.id, who="ann")
    with pytest.raises(NotFound):
        await engine.expire("nobody", who="ann")
    with pytest.raises(InvalidArgument, match="future"):
        await engine.silence(matchers, until_us=clock(), who="ann", why="late")
    with pytest.raises(InvalidArgument, match="90 days"):
        await engine.silence(matchers, until_us=clock() + 91 * 86_400 * SECOND_US, who="ann", why="long")


async def test_a_watcher_gets_each_event_once_and_a_slow_one_is_ended(database: Database) -> None:
    """The quick one has all; the slow one is told so after what it could hold, and can resume."""
    clock = Clock()
    engine = await an_engine(database, clock)
    with engine.watchers.watching() as slow:
        for number in range(300):
            await engine.observe([a_condition(feature=f"f{number}")])
        got = len([await slow.next(1) for _ in range(255)])
        with pytest.raises(ResourceExhausted):
            await slow.next(1)
    missed = engine.watchers.since(got)
    assert missed is not None
    assert [event.sequence for event in missed] == list(range(got + 1, 301))
    assert engine.watchers.since(10**6) is None


async def test_metrics_tell_what_fires_and_what_waits(database: Database) -> None:
    """By type and severity; and how many rows wait for the database."""
    registry, clock, flaky = CollectorRegistry(), Clock(), Flaky(database)
    engine = await an_engine(flaky, clock, registry=registry)  # type: ignore[arg-type]  # behaves as one
    flaky.away = True
    await engine.observe([a_condition()])
    labels = {"type": "feature_drift", "severity": "high"}
    assert registry.get_sample_value("turnout_alerts_firing", labels) == 1
    assert (registry.get_sample_value("turnout_alert_unsaved_rows") or 0) >= 2
    flaky.away = False
    await engine.observe([a_condition(Verdict.CLEAR)])
    clock.forward(DEFAULT_RULES[AlertType.FEATURE_DRIFT].recover_seconds)
    await engine.tick()
    assert registry.get_sample_value("turnout_alerts_firing", labels) == 0
    assert registry.get_sample_value("turnout_alert_unsaved_rows") == 0
    events = {"type": "feature_drift", "event": "resolved"}
    assert registry.get_sample_value("turnout_alert_events_total", events) == 1
