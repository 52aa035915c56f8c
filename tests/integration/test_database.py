"""The database that the hub's stores stand on: one writer, unchanging reads, migrations, and trouble that passes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect, text

from monitoring.ledger.tables import METADATA
from services.runtime.database import DatabaseUnusable, bulk_insert, open_database
from services.runtime.database.migrating import available, step
from services.runtime.errors import DeadlineExceeded, InvalidArgument, Unavailable
from tests.integration.postgresql_under_test import PostgreSQL


def columns(connection: Connection) -> dict[str, list[tuple[str, str, bool]]]:
    """The columns of every table: name, type, and whether it may be NULL."""
    found = inspect(connection)
    return {
        name: [(one["name"], str(one["type"]), one["nullable"]) for one in found.get_columns(name)]
        for name in sorted(found.get_table_names())
        if name != "alembic_version"
    }


def count(connection: Connection) -> int:
    return int(connection.scalar(text("SELECT count(*) FROM counters")) or 0)


def add(connection: Connection, name: str) -> None:
    connection.execute(text("INSERT INTO counters (name, value) VALUES (:name, 1)"), {"name": name})


async def test_what_was_written_is_there_after_opening_again(database_url: str) -> None:
    """A write is read by the next reader and by the next process."""
    with open_database(database_url) as database:
        await database.write(add, "one")
        assert await database.read(count) == 1
        dialect = database.dialect
    assert database_url.startswith(dialect)
    with open_database(database_url) as database:
        assert await database.read(count) == 1


async def test_what_the_work_raises_undoes_it_and_reaches_the_caller(database_url: str) -> None:
    """A domain error passes as it is; nothing of its transaction stays."""

    def work(connection: Connection) -> None:
        add(connection, "one")
        raise InvalidArgument("name", "no")

    with open_database(database_url) as database:
        with pytest.raises(InvalidArgument):
            await database.write(work)
        assert await database.read(count) == 0


async def test_a_second_hub_is_kept_off(database_url: str) -> None:
    """Only one process writes; the second is told in one sentence, without a password, and may come later."""
    with open_database(database_url):
        with pytest.raises(DatabaseUnusable, match="in use by another") as caught, open_database(database_url):
            pass
        assert "\n" not in str(caught.value)
    with open_database(database_url):
        pass


async def test_readers_cannot_write(database_url: str) -> None:
    """A question that writes is refused, on both dialects."""
    with open_database(database_url) as database:
        with pytest.raises(Unavailable, match="cannot be read"):
            await database.read(add, "one")
        assert await database.read(count) == 0


async def test_a_question_that_takes_too_long_is_ended(database_url: str) -> None:
    """The limit holds on both dialects and the database answers the next question."""
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    with open_database(database_url, read_seconds=0.2) as database:
        with pytest.raises(DeadlineExceeded, match="ask for less"):
            await database.read(lambda connection: connection.scalar(text(endless)))
        assert await database.read(count) == 0


def test_the_migrations_make_exactly_the_tables_of_the_code(database_url: str, tmp_path: Path) -> None:
    """Columns, types and keys are those that the tables' declarations would make."""
    with open_database(database_url) as database:
        migrated = database.read_now(columns)
        keys = database.read_now(
            lambda c: {t: inspect(c).get_pk_constraint(t)["constrained_columns"] for t in migrated}
        )
        indexes = database.read_now(
            lambda c: {t: sorted(str(i["name"]) for i in inspect(c).get_indexes(t)) for t in migrated}
        )

        def declared(connection: Connection) -> dict[str, list[tuple[str, str, bool]]]:
            for name in migrated:
                connection.execute(text(f"DROP TABLE {name}"))
            METADATA.create_all(connection)
            return columns(connection)

        made = database.write_now(declared)
        assert made == {name: migrated[name] for name in made}
        for table in METADATA.sorted_tables:
            assert keys[table.name] == [column.name for column in table.primary_key]
            assert indexes[table.name] == sorted(str(index.name) for index in table.indexes)


def test_migrations_are_one_chain() -> None:
    """Each step names itself as its file does, and the one before it."""
    revisions = list(available())
    assert [step(revision).revision for revision in revisions] == revisions
    assert [step(revision).down_revision for revision in revisions] == [None, *revisions[:-1]]


async def test_a_ledger_from_before_migrations_is_taken_over(tmp_path: Path) -> None:
    """A SQLite file of schema version 1 without `alembic_version` keeps its rows."""
    path = tmp_path / "old.sqlite"
    with open_database(f"sqlite:///{path}"):
        pass
    with sqlite3.connect(path) as file:
        for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            file.execute(f"DROP TABLE {name}")
        file.executescript(OLD)
    file.close()
    with open_database(f"sqlite:///{path}") as database:
        assert await database.read(count) == 2
        assert await database.read(lambda c: c.scalar(text("SELECT version_num FROM alembic_version"))) == max(
            available()
        )


OLD = """
CREATE TABLE decisions (
  tenant TEXT NOT NULL, decision_id TEXT NOT NULL, family TEXT NOT NULL, assigned_at_us BIGINT NOT NULL,
  arm TEXT NOT NULL, served_variant TEXT NOT NULL, fallback INTEGER NOT NULL, value DOUBLE NOT NULL,
  confidence DOUBLE NOT NULL, propensity DOUBLE NOT NULL, revision BIGINT NOT NULL, snapshot_digest BIGINT NOT NULL,
  sequence BIGINT NOT NULL, latency_us BIGINT NOT NULL, request_digest BLOB NOT NULL, record BLOB NOT NULL,
  PRIMARY KEY (decision_id, tenant));
CREATE INDEX decisions_by_time ON decisions (assigned_at_us, tenant, decision_id);
CREATE TABLE outcomes (
  tenant TEXT NOT NULL, decision_id TEXT NOT NULL, recorded_at_us BIGINT NOT NULL, occurred_at_us BIGINT NOT NULL,
  value DOUBLE NOT NULL, family TEXT, arm TEXT, assigned_at_us BIGINT, PRIMARY KEY (decision_id, tenant));
CREATE TABLE snapshots (
  family TEXT NOT NULL, digest BIGINT NOT NULL, revision BIGINT NOT NULL, canonical_json TEXT NOT NULL,
  applied_at_us BIGINT NOT NULL, router TEXT NOT NULL, PRIMARY KEY (family, digest));
CREATE TABLE set_aside (
  fingerprint BLOB NOT NULL, raw BLOB NOT NULL, reason TEXT NOT NULL, router TEXT NOT NULL, at_us BIGINT NOT NULL,
  PRIMARY KEY (fingerprint));
CREATE TABLE counters (name TEXT NOT NULL, value BIGINT NOT NULL, PRIMARY KEY (name));
INSERT INTO counters VALUES ('schema_version', 1), ('outcomes_waiting', 0);
"""


@pytest.mark.parametrize("version", ["9999", None])
def test_a_newer_schema_is_refused(database_url: str, version: str | None) -> None:
    """Neither a newer step nor a newer ledger is touched; the sentence says which version is needed."""
    with open_database(database_url) as database:

        def outdate(connection: Connection) -> None:
            if version is None:
                connection.execute(text("DROP TABLE alembic_version"))
                connection.execute(text("INSERT INTO counters (name, value) VALUES ('schema_version', 2)"))
            else:
                connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

        database.write_now(outdate)
    with pytest.raises(DatabaseUnusable, match="use the version of Turnout that wrote it"), open_database(database_url):
        pass


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://u:secret@host/db", "secret://:"])
def test_other_urls_are_refused_without_their_password(url: str) -> None:
    """The sentence says which URLs there are."""
    with pytest.raises(DatabaseUnusable, match="postgresql://") as caught, open_database(url):
        pass
    assert "secret@" not in str(caught.value)


def test_a_server_that_is_away_is_refused_in_one_sentence_without_the_password() -> None:
    """The URL is named, the password is not."""
    url = "postgresql://turnout:hush@127.0.0.1:9/turnout"
    with pytest.raises(DatabaseUnusable, match=r"turnout:\*\*\*@127") as caught, open_database(url):
        pass
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_server_that_went_away_refuses_and_the_next_write_works(
    postgresql_server: PostgreSQL, postgresql_url: str
) -> None:
    """While the server is stopped writes and reads are Unavailable; started again, the same database works on."""
    with open_database(postgresql_url) as database:
        await database.write(add, "one")
        before = database.generation
        postgresql_server.stop()
        try:
            with pytest.raises(Unavailable):
                await database.write(add, "two")
            with pytest.raises(Unavailable):
                await database.read(count)
        finally:
            postgresql_server.start()
        await database.write(add, "two")
        assert await database.read(count) == 2
        assert database.generation > before


async def test_a_broken_session_undoes_its_transaction(postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    """A session that the server ends in the middle of a transaction stores nothing; the next write works."""

    def broken(connection: Connection) -> None:
        add(connection, "one")
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        postgresql_server.sql(f"SELECT pg_terminate_backend({pid})")
        add(connection, "two")

    with open_database(postgresql_url) as database:
        with pytest.raises(Unavailable):
            await database.write(broken)
        await database.write(add, "three")
        assert await database.read(count) == 1


async def test_a_hub_that_lost_its_session_cannot_write_beside_its_successor(
    postgresql_server: PostgreSQL, postgresql_url: str
) -> None:
    """The lock goes with the session: when another hub took over, the first is refused until that one is gone."""
    with open_database(postgresql_url) as first:
        pid = await first.write(lambda c: c.scalar(text("SELECT pg_backend_pid()")))
        postgresql_server.sql(f"SELECT pg_terminate_backend({pid})")
        with open_database(postgresql_url) as second:
            with pytest.raises(Unavailable):
                await first.write(add, "first")
            await second.write(add, "second")
        await first.write(add, "first")
        assert await first.read(count) == 2


@pytest.mark.parametrize("rows", [3, 300])
async def test_many_rows_go_in_as_tuples(database_url: str, rows: int) -> None:
    """All of them, or none when one breaks a constraint; the transaction goes on after a savepoint."""
    from sqlalchemy.exc import IntegrityError

    table = METADATA.tables["counters"]

    def work(connection: Connection) -> None:
        bulk_insert(connection, table, [(f"n{number}", number) for number in range(rows)])
        savepoint = connection.begin_nested()
        with pytest.raises(IntegrityError):
            bulk_insert(connection, table, [(f"n{number}", 0) for number in range(rows, 0, -1)])
        savepoint.rollback()
        bulk_insert(connection, table, [])

    with open_database(database_url) as database:
        await database.write(work)
        assert await database.read(count) == rows


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """Nothing is overwritten."""
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(DatabaseUnusable, match="is not a database"), open_database(f"sqlite:///{path}"):
        pass
    assert path.read_bytes() == b"this is no database" * 100
