"""A database that refuses: nothing is lost, nothing is half there, and the next batch works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from monitoring.ledger.aggregates import window_totals
from services.runtime.database import DatabaseUnusable, open_database
from services.runtime.database.sqlite import run_outside_transaction
from services.runtime.errors import Unavailable
from tests.integration.ledger_under_test import a_decision, an_outcome, ledger

ROOT = Path(__file__).resolve().parents[2]


def test_a_read_only_database_refuses_and_the_next_batch_works(tmp_path: Path) -> None:
    """While writing is forbidden every batch is refused whole; afterwards the same batch is stored once."""
    with ledger(f"sqlite:///{tmp_path / 'x.sqlite'}") as store:
        store.append_now([a_decision(1)], "r")
        writer = store._database._connected.writer
        run_outside_transaction(writer, "PRAGMA query_only = ON")
        for _ in range(3):
            with pytest.raises(Unavailable, match="nothing was stored"):
                store.append_now([a_decision(2), an_outcome(1, 1.0)], "r")
        with pytest.raises(Unavailable):
            store._database.write_now(lambda connection: connection.exec_driver_sql("DELETE FROM decisions"))
        (totals,) = store._database.read_now(window_totals, "dispatch").values()
        assert (totals.decisions, totals.outcomes) == (1, 0)
        run_outside_transaction(writer, "PRAGMA query_only = OFF")
        assert store.append_now([a_decision(2), an_outcome(1, 1.0)], "r").stored == 2
        (totals,) = store._database.read_now(window_totals, "dispatch").values()
        assert (totals.decisions, totals.outcomes) == (2, 1)


def test_a_full_database_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """Many batches fail on a full disk without a trace; each of them is stored once when there is room again."""
    batches = [[a_decision(100 * n + k) for k in range(100)] for n in range(5)]
    with ledger(f"sqlite:///{tmp_path / 'x.sqlite'}") as store:
        writer = store._database._connected.writer
        run_outside_transaction(writer, "PRAGMA max_page_count = 1")  # SQLite takes the present size instead
        refused = 0
        for batch in batches:
            try:
                store.append_now(batch, "r")
            except Unavailable:
                refused += 1
        assert refused >= 4
        run_outside_transaction(writer, "PRAGMA max_page_count = 1000000")
        for batch in batches:
            result = store.append_now(batch, "r")
            assert result.stored + result.repeated == 100
        (totals,) = store._database.read_now(window_totals, "dispatch").values()
        assert totals.decisions == 500


def test_a_folder_that_cannot_be_written_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """A file stands where the folder should be: the hub says so and does not start."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseUnusable, match="cannot be written"), open_database(f"sqlite:///{tmp_path}/file/x.db"):
        pass


@pytest.mark.parametrize("module", ["router.bootstrap", "services.model_server.bootstrap", "services.client"])
def test_who_needs_no_database_does_not_load_one(module: str) -> None:
    """SQLAlchemy, alembic, psycopg and the sketches cost time and memory that routers and model servers do not have."""
    heavy = ("sqlalchemy", "alembic", "psycopg", "datasketches")
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos' / 'gen'}"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment, timeout=60
    )
    assert result.stdout.strip() == "[]"


def test_a_schema_that_is_up_to_date_opens_without_alembic(tmp_path: Path) -> None:
    """Alembic is imported for a step that is due, and else costs the start of the hub nothing."""
    url = f"sqlite:///{tmp_path / 'x.sqlite'}"
    with open_database(url):
        pass
    code = (
        "import sys; from services.runtime.database import open_database\n"
        f"with open_database({url!r}): print('alembic' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos' / 'gen'}"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment, timeout=60
    )
    assert result.stdout.strip() == "False"
