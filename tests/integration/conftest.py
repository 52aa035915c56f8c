"""Databases for tests: a SQLite file, and a fresh database of one temporary PostgreSQL server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.postgresql_under_test import PostgreSQL, a_server, why_not


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """One server for all tests of a session."""
    if reason := why_not():
        pytest.skip(reason)
    with a_server() as server:
        yield server


_numbers = itertools.count(1)


@pytest.fixture
def postgresql_url(postgresql_server: PostgreSQL) -> str:
    """URL of a fresh PostgreSQL database."""
    name = f"t{next(_numbers)}"
    postgresql_server.sql(f"CREATE DATABASE {name}")
    return postgresql_server.url(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a fresh database: each test that takes it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'hub.sqlite'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url
