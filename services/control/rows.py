"""Reads and writes the tables of experiment control, inside transactions that others open."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import Connection, Table, delete, insert, select, update

from services.control.plans import ExperimentChange, LayerChange, Plan, State
from services.control.tables import (
    DECLARED,
    EXPERIMENT_REVISIONS,
    EXPERIMENT_SET,
    EXPERIMENTS,
    LAYER_REVISIONS,
    LAYERS,
)
from services.runtime.experiment import Experiment, Layer
from services.runtime.experiment_set import ExperimentSet

Kind = Literal["experiment", "layer"]


T = TypeVar("T", Experiment, Layer)


@dataclass(frozen=True, slots=True)
class Revision(Generic[T]):
    """One entry of the history of an experiment or a layer; `after` is None for its deletion."""

    revision: int
    after: T | None
    who: str
    at_us: int
    why: str
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Newest:
    """A name's newest revision, who made it, and whether it was a deletion."""

    revision: int = 0
    who: str = ""
    deleted: bool = True


def begin(connection: Connection, origin: str, at_us: int) -> None:
    """Gives a fresh database its name; one that has a name keeps it."""
    if connection.scalar(select(EXPERIMENT_SET.c.origin)) is None:
        values = {"singleton": 1, "origin": origin, "version": 0, "changed_at_us": at_us}
        connection.execute(insert(EXPERIMENT_SET).values(values))


def read_version(connection: Connection) -> int:
    """Gives the version of the set; 0 before the first change."""
    return int(connection.scalar(select(EXPERIMENT_SET.c.version)) or 0)


def read_state(connection: Connection) -> State:
    """Gives what runs."""
    columns = EXPERIMENTS.c
    texts = connection.execute(select(columns.name, columns.definition).where(columns.definition.is_not(None))).all()
    experiments = {name: Experiment.from_canonical(text) for name, text in texts}
    layers, revisions = {}, {}
    for name, revision, text in connection.execute(select(LAYERS).where(LAYERS.c.definition.is_not(None))):
        layers[name], revisions[name] = Layer.model_validate_json(text), revision
    size = sum(len(text) for _, text in texts)
    origin: str = connection.scalar(select(EXPERIMENT_SET.c.origin)) or ""
    return State(ExperimentSet(read_version(connection), experiments, layers, origin), revisions, size)


def newest_of(connection: Connection, kind: Kind, name: str) -> Newest:
    """Gives a name's newest revision, also that of a deleted one; revision 0 for a name that never was."""
    things, revisions = _tables(kind)
    both = things.join(revisions, (things.c.name == revisions.c.name) & (things.c.revision == revisions.c.revision))
    query = select(things.c.revision, revisions.c.who, things.c.definition.is_(None)).select_from(both)
    row = connection.execute(query.where(things.c.name == name)).one_or_none()
    return Newest() if row is None else Newest(row[0], row[1], bool(row[2]))


def revisions_before(connection: Connection, name: str, before: int, limit: int) -> list[Revision[Experiment]]:
    """Gives an experiment's revisions under `before`, newest first."""
    found = _page(connection, EXPERIMENT_REVISIONS, name, before, limit)
    return [_revision(row, Experiment.from_canonical) for row in found]


def layer_revisions_before(connection: Connection, name: str, before: int, limit: int) -> list[Revision[Layer]]:
    """Gives a layer's revisions under `before`, newest first."""
    found = _page(connection, LAYER_REVISIONS, name, before, limit)
    return [_revision(row, Layer.model_validate_json) for row in found]


def write_plan(connection: Connection, plan: Plan, version: int, at_us: int) -> None:
    """Stores a plan's changes and the version of the set that they make."""
    for change in plan.experiments:
        text = None if change.after is None else change.after.canonical_json()
        connection.execute(insert(EXPERIMENT_REVISIONS).values(_row(change, text, version, at_us)))
        _write_newest(connection, EXPERIMENTS, change, text)
    for layer in plan.layers:
        text = None if layer.after is None else layer_text(layer.after)
        connection.execute(insert(LAYER_REVISIONS).values(_row(layer, text, version, at_us)))
        _write_newest(connection, LAYERS, layer, text)
    connection.execute(update(EXPERIMENT_SET).values(version=version, changed_at_us=at_us))


def read_declared(connection: Connection) -> dict[tuple[str, str], str]:
    """Gives what turnout.yaml said last, by kind and name."""
    return {(kind, name): text for kind, name, text in connection.execute(select(DECLARED))}


def write_declared(connection: Connection, declared: dict[tuple[str, str], str]) -> None:
    """Remembers what turnout.yaml says now."""
    connection.execute(delete(DECLARED))
    rows = [{"kind": kind, "name": name, "definition": text} for (kind, name), text in declared.items()]
    if rows:
        connection.execute(insert(DECLARED), rows)


def layer_text(layer: Layer) -> str:
    """Gives a layer's canonical form."""
    return json.dumps(layer.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def _tables(kind: Kind) -> tuple[Table, Table]:
    return (EXPERIMENTS, EXPERIMENT_REVISIONS) if kind == "experiment" else (LAYERS, LAYER_REVISIONS)


def _row(change: ExperimentChange | LayerChange, text: str | None, version: int, at_us: int) -> dict[str, Any]:
    return {
        "name": change.name,
        "revision": change.revision,
        "version": version,
        "definition": text,
        "who": change.who,
        "at_us": at_us,
        "why": change.why,
        "changes": json.dumps(change.changes),
    }


def _write_newest(
    connection: Connection, things: Table, change: ExperimentChange | LayerChange, text: str | None
) -> None:
    values = {"revision": change.revision, "definition": text}
    if not connection.execute(update(things).where(things.c.name == change.name).values(values)).rowcount:
        connection.execute(insert(things).values(name=change.name, **values))


def _page(connection: Connection, table: Table, name: str, before: int, limit: int) -> Sequence[Any]:
    query = select(table).where(table.c.name == name, table.c.revision < before)
    return connection.execute(query.order_by(table.c.revision.desc()).limit(limit)).all()


def _revision(row: Any, read: Callable[[str], T]) -> Revision[T]:
    changes: Sequence[str] = json.loads(row.changes)
    after = None if row.definition is None else read(row.definition)
    return Revision(row.revision, after, row.who, row.at_us, row.why, tuple(changes))
