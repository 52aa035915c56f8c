"""The export: one row a decision, the same in Parquet and in CSV, never half a file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import parquet

from bentos.family import load
from services.cli.durations import instant
from services.cli.export import Row, _replaced, columns_of, row_of, write_csv, write_parquet
from services.runtime.errors import InvalidArgument
from turnout.v1 import ledger_pb2, prediction_pb2

SCHEMA = load("dispatch").schema


def an_entry(number: int, *, digest: int = SCHEMA.digest) -> ledger_pb2.LedgerEntry:
    packed, _ = SCHEMA.encode({"severity": 4, "distance_km": 2.5}, {"call_type": "fire"}, {})
    entry = ledger_pb2.LedgerEntry(
        decision=ledger_pb2.Decision(
            decision_id=f"d-{number}",
            tenant="north",
            family="dispatch",
            unit_id="=1+1",
            assigned_at_unix_us=number,
            features=packed,
            schema_digest=digest,
            prediction=prediction_pb2.PredictResponse(
                value=0.1,
                fallback=prediction_pb2.FALLBACK_REASON_TIMEOUT,
                assignment=prediction_pb2.Assignment(arm="a", propensity=0.5, burn_in=True),
            ),
        )
    )
    if number % 2:
        entry.outcome.value = 1.0
        entry.outcome.cost = 2.5
    return entry


def rows() -> Iterator[Row]:
    return iter([row_of(an_entry(0), SCHEMA), row_of(an_entry(1), SCHEMA), row_of(an_entry(2, digest=7), SCHEMA)])


def test_parquet_has_typed_columns_and_nulls(tmp_path: Path) -> None:
    """Categories are text, what is not known is null, and a row of another schema has no features."""
    path = tmp_path / "x.parquet"
    write_parquet(path, columns_of(SCHEMA), rows())
    table = parquet.read_table(path).to_pydict()
    assert list(table) == list(columns_of(SCHEMA))
    assert table["outcome"] == [None, 1.0, None]
    assert table["outcome_cost"] == [None, 2.5, None]
    assert table["feature_call_type"] == ["fire", "fire", None]
    assert table["feature_distance_km"] == [2.5, 2.5, None]
    assert table["feature_patient_age"] == [None, None, None]
    assert (table["fallback"], table["burn_in"], table["experiment"]) == (["timeout"] * 3, [True] * 3, ["dispatch"] * 3)


def test_csv_says_the_same_and_no_cell_is_a_formula(tmp_path: Path) -> None:
    """A spreadsheet that opens the file runs nothing that a caller sent."""
    path = tmp_path / "x.csv"
    write_csv(path, columns_of(SCHEMA), rows())
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["outcome"] for row in found] == ["", "1.0", ""]
    assert [row["unit_id"] for row in found] == ["'=1+1"] * 3
    assert (found[0]["value"], found[0]["burn_in"], found[0]["feature_severity"]) == ("0.1", "true", "4.0")


def test_an_export_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """Neither half a file nor a scratch file stays."""
    path = tmp_path / "x.csv"
    path.write_text("old")

    def broken() -> Iterator[Row]:
        yield from rows()
        raise InvalidArgument("", "the hub went away")

    with pytest.raises(InvalidArgument), _replaced(path) as scratch:
        write_csv(scratch, columns_of(SCHEMA), broken())
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("x.csv", "old")]


def test_moments_are_read_as_people_type_them() -> None:
    """A length of time counts back from now, a moment without a zone is UTC, anything else is refused."""
    assert instant("--since", "2h", now_us=10**16) == 10**16 - 7_200_000_000
    assert instant("--since", "1970-01-01T00:00:01", now_us=0) == 1_000_000
    assert instant("--since", "1970-01-01T01:00:01+01:00", now_us=0) == 1_000_000
    with pytest.raises(InvalidArgument, match="--since"):
        instant("--since", "yesterday", now_us=0)
