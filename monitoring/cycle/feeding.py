"""How stored decisions and outcomes reach the monitors' memory. Pure but for the look-up of cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from bentos.family import Family, TargetKind
from monitoring.cycle.batches import Decided, Labelled
from monitoring.cycle.ratio import Arrivals
from monitoring.drift.monitor import ArmMonitor, Batch
from monitoring.ledger.aggregates import ERRORS
from monitoring.ledger.cells import Cell
from monitoring.ledger.tables import CELLS
from monitoring.ledger.tally import THRESHOLD

Places = NDArray[np.int64]


class ArmKey(NamedTuple):
    """Whose decisions a monitor watches."""

    family: str
    experiment: str
    arm: str
    variant: str
    version: str


class Said(NamedTuple):
    """How often a variant predicted the same."""

    family: str
    variant: str
    prediction: str
    """The family's level; positive or negative for a probability without levels, else number."""
    times: int
    decision_id: str
    """One of them."""


@dataclass(slots=True)
class Kept:
    """A monitor and what is known of its run."""

    monitor: ArmMonitor
    number: int
    """How many monitors of its family were begun before it, plus one: the false-alarm rate is spent over them."""
    since_us: int
    """Assignment of its first decision; labels of earlier ones are not its own."""
    last_us: int
    decisions: int = 0


@dataclass(slots=True)
class Remembered:
    """What the monitors know, in memory. It holds as long as every transaction succeeds."""

    generation: int
    kept: dict[ArmKey, Kept]
    arrivals: dict[tuple[str, str], Arrivals]
    cells: dict[int, Cell]
    begun: dict[str, int]
    """Monitors that were ever begun, by family."""


def newest(kept: dict[ArmKey, Kept], of: tuple[str, ...]) -> ArmKey | None:
    """Gives the monitor that was begun last of those whose key begins with `of`."""
    found = [key for key in kept if key[: len(of)] == of]
    return max(found, key=lambda key: kept[key].number, default=None)


def update(kept: Kept, decided: Decided, places: Places, *, absent: bool = False) -> None:
    """Gives decisions to a monitor.

    Args:
        kept: the monitor.
        decided: the batch.
        places: which of it, in order.
        absent: whether somebody else answered them, so that their answers say nothing of the variant.
    """
    missing = np.full(len(places), np.nan)
    reasons = decided.reasons[places]
    kept.monitor.update(
        Batch(
            rows=decided.rows[places],
            scores=missing if absent else decided.values[places],
            confidences=missing if absent else decided.confidences[places],
            fallback=reasons != 0,
            failed=np.isin(reasons, ERRORS),
            violations=decided.fits[places] == 0,
        )
    )
    kept.decisions += len(places)
    kept.last_us = max(kept.last_us, int(decided.at_us[places].max()))


def label(memory: Remembered, cell: Cell, labelled: Labelled, places: Places) -> Iterator[ArmKey]:
    """Gives labels to the monitor of the newest version of the variant, but for those of decisions before it."""
    key = newest(memory.kept, cell[:4])
    if key is None:
        return
    kept = memory.kept[key]
    outcomes = labelled.outcomes[places]
    fit = labelled.at_us[places] >= kept.since_us
    if kept.monitor.watched.target is TargetKind.BINARY:
        fit &= (outcomes == 0.0) | (outcomes == 1.0)
    if fit.any():
        kept.monitor.label(labelled.values[places][fit], outcomes[fit])
        yield key


def arrive(memory: Remembered, cell: Cell, decided: Decided, places: Places) -> tuple[str, str]:
    """Counts the units of an arm under the newest revision; gives the family and the experiment."""
    of = (cell.family, cell.experiment)
    latest = int(decided.revisions[places].max())
    arrivals = memory.arrivals.get(of)
    if arrivals is None or latest > arrivals.revision:
        arrivals = memory.arrivals[of] = Arrivals(latest)
    arrivals.add(cell.arm, decided.units[places[decided.revisions[places] == arrivals.revision]])
    return of


def by_cell(connection: Connection, memory: Remembered, cells: Places) -> Iterator[tuple[Cell, Places]]:
    """Gives each cell, without its tenant, with the places of its decisions: tenants are watched together."""
    numbers = np.unique(cells).tolist()
    if any(number not in memory.cells for number in numbers):
        memory.cells = {row[0]: Cell(*row[1:]) for row in connection.execute(select(CELLS))}
    merged: dict[Cell, list[int]] = {}
    for number in numbers:
        merged.setdefault(memory.cells[number]._replace(tenant=""), []).append(number)
    for cell, members in merged.items():
        yield cell, np.flatnonzero(np.isin(cells, members))


def count_predictions(family: Family, cell: Cell, decided: Decided, places: Places) -> list[Said]:
    """Counts what was predicted in a cell, by level."""
    names: Counter[str] = Counter(_prediction(family, value) for value in decided.values[places].tolist())
    example = decided.examples.get(int(decided.cells[places[-1]]), "")
    return [Said(family.name, cell.variant, name, count, example) for name, count in sorted(names.items())]


def _prediction(family: Family, value: float) -> str:
    if family.levels:
        return family.level(value) or "none"
    if family.target.kind is TargetKind.BINARY:
        return "positive" if value >= THRESHOLD else "negative"
    return "number"
