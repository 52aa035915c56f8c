"""`turnout export`: decisions with their outcomes, one row each, as a Parquet or CSV file."""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli.durations import instant
from services.cli.output import messages
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import HubOption, connect
from services.runtime.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from bentos.schema import Schema
    from turnout.v1 import ledger_pb2

_ROWS: Final = 10_000
"""Rows that are written at once: one row group of a Parquet file."""
DECISION_COLUMNS: Final[dict[str, str]] = {
    "decision_id": "string",
    "tenant": "string",
    "family": "string",
    "experiment": "string",
    "unit_id": "string",
    "region": "string",
    "assigned_at_us": "int64",
    "arm": "string",
    "propensity": "double",
    "revision": "int64",
    "burn_in": "bool",
    "served_variant": "string",
    "model_version": "string",
    "fallback": "string",
    "value": "double",
    "confidence": "double",
    "level": "string",
    "latency_us": "int64",
    "router": "string",
    "outcome": "double",
    "outcome_cost": "double",
    "outcome_occurred_at_us": "int64",
    "outcome_recorded_at_us": "int64",
}
"""Columns before the features, with their types; docs/ledger.md says what they mean."""
Row = tuple[Any, ...]


def export(
    family: Annotated[str, typer.Argument(help="Prediction problem.")],
    *,
    to: Annotated[Path, typer.Option("--to", help="File to write: NAME.parquet or NAME.csv.")],
    since: Annotated[str, typer.Option("--since", help="Only newer decisions: 2h, 1d, or 2026-01-31T08:00.")] = "",
    until: Annotated[str, typer.Option("--until", help="Only older decisions, likewise.")] = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Write a family's decisions with their outcomes into a file, for training or analysis."""
    from bentos.family import load
    from services.cli.progress import Steps
    from turnout.v1 import ledger_pb2

    writer = _WRITERS.get(to.suffix)
    if writer is None:
        raise InvalidArgument("to", f"--to must end in {' or '.join(_WRITERS)}, not {to.name!r}")
    now_us = time.time_ns() // 1000
    request = ledger_pb2.ListDecisionsRequest(
        family=family,
        since_unix_us=instant("--since", since, now_us=now_us) if since else 0,
        until_unix_us=instant("--until", until, now_us=now_us) if until else 0,
    )
    schema = load(family).schema
    count = 0
    with connect(hub, config) as server, Steps(messages()) as steps, steps.step("exporting decisions") as step:

        def rows() -> Iterator[Row]:
            nonlocal count
            for entry in server.decisions(request):
                count += 1
                if count % 1000 == 0:
                    step.doing(f"{count} so far")
                yield row_of(entry, schema)

        with _replaced(to) as scratch:
            writer(scratch, columns_of(schema), rows())
            if not count:
                raise NotFound("family", f"the ledger has no decisions of {family!r} in this span")
        step.note = f"{count} decisions"


def columns_of(schema: Schema) -> dict[str, str]:
    """Gives the columns with their types; the features come last, each called `feature_` and its name."""
    from bentos.schema import Category, Flag

    kinds = {Category: "string", Flag: "bool"}
    features = {f"feature_{feature.name}": kinds.get(type(feature), "float") for feature in schema.features}
    return DECISION_COLUMNS | features


def row_of(entry: ledger_pb2.LedgerEntry, schema: Schema) -> Row:
    """Gives one row; None for what is not known, and for the features of a decision of another schema."""
    from services.runtime.fallback_words import fallback_word

    decision, prediction = entry.decision, entry.decision.prediction
    assignment, outcome = prediction.assignment, entry.outcome
    reported = entry.HasField("outcome")
    reason = fallback_word(prediction.fallback)
    same = decision.schema_digest == schema.digest and len(decision.features) == schema.row_bytes
    named = schema.named(schema.decode(decision.features)) if same else {}
    return (
        decision.decision_id,
        decision.tenant,
        decision.family,
        assignment.experiment or decision.family,
        decision.unit_id,
        decision.region,
        decision.assigned_at_unix_us,
        assignment.arm,
        assignment.propensity,
        assignment.revision,
        assignment.burn_in,
        prediction.served_variant,
        prediction.model_version,
        reason if prediction.fallback else "",
        prediction.value,
        prediction.confidence,
        prediction.level,
        decision.latency_us,
        decision.router,
        outcome.value if reported else None,
        outcome.cost if reported and outcome.HasField("cost") else None,
        outcome.occurred_at_unix_us if reported else None,
        outcome.recorded_at_unix_us if reported else None,
        *(named.get(name) for name in schema.names),
    )


def write_csv(path: Path, columns: dict[str, str], rows: Iterator[Row]) -> None:
    """Writes text in UTF-8 with a header; what is not known is empty, numbers have all their digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_csv_value(value) for value in row])


def write_parquet(path: Path, columns: dict[str, str], rows: Iterator[Row]) -> None:
    """Writes Parquet, compressed with zstd, in row groups of 10 000."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {"string": pa.string(), "double": pa.float64(), "float": pa.float32(), "int64": pa.int64()}
    schema = pa.schema([(name, types.get(kind, pa.bool_())) for name, kind in columns.items()])
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(itertools.islice(rows, _ROWS)):
            values: Sequence[Sequence[Any]] = list(zip(*group, strict=True))
            arrays = [pa.array(column, field.type) for column, field in zip(values, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _csv_value(value: Any) -> Any:
    match value:
        case bool():
            return str(value).lower()
        case float() if math.isfinite(value):
            return repr(value)
        case str() if value.startswith(("=", "+", "-", "@", "\t", "\r")):
            # A spreadsheet would take it for a formula.
            return f"'{value}"
        case _:
            return value


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Gives a file beside `path` that takes its place when all went well: nobody finds half an export."""
    scratch = path.with_name(f".{path.name}.part")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


_WRITERS: Final[dict[str, Callable[[Path, dict[str, str], Iterator[Row]], None]]] = {
    ".parquet": write_parquet,
    ".csv": write_csv,
}
