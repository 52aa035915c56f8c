"""What one transaction of the ledger brought, as the monitors want it: arrays by family, packed into bytes. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bentos.schema import Schema
from monitoring.drift import state
from monitoring.ledger.aggregating import Changes
from monitoring.ledger.rows import DecisionRow, Features
from turnout.v1 import ledger_pb2

_KIND: Final = "brought"
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """Decisions of one family in the order in which they were stored; arrays of n each."""

    rows: NDArray[np.float32]
    """[n, features], NaN for missing; all NaN where the row is not of the family's schema."""
    fits: NDArray[np.uint8]
    """1 where the row is of the family's schema."""
    cells: Ints
    values: Floats
    confidences: Floats
    reasons: Ints
    """Numbers of FallbackReason, 0 where the arm's own variant answered."""
    at_us: Ints
    revisions: Ints
    """Of the experiment."""
    units: Ints
    """63 bits of a digest of the unit, or of the decision's id where it is the unit."""
    versions: Ints
    """Places in `Brought.versions`."""
    examples: dict[int, str] = field(default_factory=dict)
    """The id of one decision of each cell, to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Decisions of one family whose outcomes became known; arrays of n each. Corrections are left out."""

    cells: Ints
    values: Floats
    outcomes: Floats
    at_us: Ints
    """When the decision was assigned."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What one transaction brought, by family."""

    versions: tuple[str, ...]
    decided: dict[str, Decided]
    labelled: dict[str, Labelled]


_DECIDED: Final = (
    "rows",
    "fits",
    "cells",
    "values",
    "confidences",
    "reasons",
    "at_us",
    "revisions",
    "units",
    "versions",
)
_LABELLED: Final = ("cells", "values", "outcomes", "at_us")


def brought(changes: Changes, schema_of: Callable[[str], Schema | None]) -> Brought | None:
    """Gives what a transaction brought of families that are declared; None for nothing.

    Args:
        changes: the transaction's.
        schema_of: a family's schema, None when there is no such family.
    """
    versions: dict[str, int] = {}
    decisions: dict[str, list[tuple[int, DecisionRow, Features]]] = {}
    # A record that takes the place of another one of its id was watched already, and a monitor cannot unlearn.
    known = {(row.tenant, row.decision_id) for _, row in changes.removed}
    for (cell, row), features in zip(changes.added, changes.features, strict=True):
        if (row.tenant, row.decision_id) in known:
            continue
        decisions.setdefault(row.family, []).append((cell, row, features))
    decided = {}
    for family, found in decisions.items():
        schema = schema_of(family)
        if schema is not None:
            decided[family] = _decided(found, schema, versions)
    labelled = _labelled(changes, schema_of)
    return Brought(tuple(versions), decided, labelled) if decided or labelled else None


def pack(batch: Brought) -> bytes:
    """Writes a batch."""
    arrays: dict[str, Any] = {}
    families = list(dict.fromkeys([*batch.decided, *batch.labelled]))
    for place, family in enumerate(families):
        for part, names, group in (("d", _DECIDED, batch.decided), ("l", _LABELLED, batch.labelled)):
            if family in group:
                arrays |= {f"{place}.{part}.{name}": getattr(group[family], name) for name in names}
    examples = {name: list(one.examples.items()) for name, one in batch.decided.items()}
    fields = {"families": families, "versions": list(batch.versions), "examples": examples}
    return state.pack(_KIND, fields, arrays)


def unpack(data: bytes) -> Brought:
    """Reads what `pack` wrote.

    Raises:
        InvalidArgument: the bytes are damaged.
    """
    fields, arrays = state.unpack(_KIND, data)
    decided, labelled = {}, {}
    with state.checked(_KIND):
        for place, family in enumerate(fields["families"]):
            if f"{place}.d.cells" in arrays:
                examples = {int(cell): str(name) for cell, name in fields["examples"].get(family, ())}
                columns = {name: arrays[f"{place}.d.{name}"] for name in _DECIDED}
                decided[family] = Decided(**columns, examples=examples)
            if f"{place}.l.cells" in arrays:
                labelled[family] = Labelled(**{name: arrays[f"{place}.l.{name}"] for name in _LABELLED})
        return Brought(tuple(fields["versions"]), decided, labelled)


def _decided(found: Sequence[tuple[int, DecisionRow, Features]], schema: Schema, versions: dict[str, int]) -> Decided:
    width = len(schema)
    rows = np.full((len(found), width), np.nan, np.float32)
    fits = np.zeros(len(found), np.uint8)
    units, places = [], []
    for place, (_, row, features) in enumerate(found):
        if features.schema_digest == schema.digest and len(features.packed) == schema.row_bytes:
            rows[place] = np.frombuffer(features.packed, "<f4")
            fits[place] = 1
        record = ledger_pb2.Decision.FromString(row.record)
        unit = record.unit_id or row.decision_id
        units.append(int.from_bytes(hashlib.blake2b(unit.encode(), digest_size=8).digest(), "big") >> 1)
        places.append(versions.setdefault(record.prediction.model_version, len(versions)))
    return Decided(
        rows=rows,
        fits=fits,
        cells=np.array([cell for cell, _, _ in found], np.int64),
        values=np.array([row.value for _, row, _ in found], np.float64),
        confidences=np.array([row.confidence for _, row, _ in found], np.float64),
        reasons=np.array([row.fallback for _, row, _ in found], np.int64),
        at_us=np.array([row.assigned_at_us for _, row, _ in found], np.int64),
        revisions=np.array([row.revision for _, row, _ in found], np.int64),
        units=np.array(units, np.int64),
        versions=np.array(places, np.int64),
        examples={cell: row.decision_id for cell, row, _ in found},
    )


def _labelled(changes: Changes, schema_of: Callable[[str], Schema | None]) -> dict[str, Labelled]:
    # A correction takes the old outcome away and adds the new one; a monitor cannot unlearn, so it keeps the first.
    corrected = {(one.cell, one.assigned_at_us, one.value) for one in changes.outcomes if one.sign < 0}
    groups: dict[str, list[tuple[int, float, float, int]]] = {}
    for one in changes.outcomes:
        if one.sign > 0 and (one.cell, one.assigned_at_us, one.value) not in corrected:
            groups.setdefault(one.family, []).append((one.cell, one.value, one.outcome, one.assigned_at_us))
    return {
        family: Labelled(
            cells=np.array([cell for cell, _, _, _ in rows], np.int64),
            values=np.array([value for _, value, _, _ in rows], np.float64),
            outcomes=np.array([outcome for _, _, outcome, _ in rows], np.float64),
            at_us=np.array([at for _, _, _, at in rows], np.int64),
        )
        for family, rows in groups.items()
        if schema_of(family) is not None
    }
