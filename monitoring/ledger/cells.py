"""What is counted apart, and how many such cells there may be.

A cell is family × experiment × arm × served variant × tenant × population. Names come from callers and operators, so
their number is bounded: tenants beyond the bound share the cell of `other`, and so do arms and variants. Which cell a
decision belongs to is stored with it and never changes, so what was added to a cell is taken away from the same one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import Connection, select

from monitoring.ledger.tables import CELLS
from services.runtime.database import bulk_insert
from turnout.v1 import prediction_pb2

OTHER: Final = "~other"
"""Name of what is beyond a bound; no tenant, arm or variant can be called so."""
EXPERIMENT: Final = "experiment"
"""Population of the decisions that an analysis compares."""


SHADOW_AGREES: Final = "shadow_agrees"
"""Population of the answers of shadows that come to the same as what the callers were told."""
SHADOW_DIFFERS: Final = "shadow_differs"
SHADOW_FAILED: Final = "shadow_failed"
"""Population of the copies that a shadow gave no answer to; only their number and reasons mean anything."""
SHADOWED: Final = "shadowed"
"""Population of what callers were told to the rows that a shadow answered; the cell's arm is the shadow."""
SHADOWS: Final = (SHADOW_AGREES, SHADOW_DIFFERS, SHADOW_FAILED, SHADOWED)
"""Populations in which no decision is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellBounds:
    """How many cells there may be."""

    tenants: int = 200
    """Tenants of a family that are counted apart."""
    names: int = 64
    """Arms of a family, and variants of a family, that are counted apart; and experiments."""
    cells: int = 4000
    """Cells of a family; from then on new ones are counted under the tenant `~other`."""


class Cell(NamedTuple):
    """What is counted apart."""

    family: str
    experiment: str
    arm: str
    variant: str
    tenant: str
    population: str
    """`experiment` for decisions that an analysis compares; else why it leaves them out: `burn_in`, `paused`,
    `override`, `hold_out` or `concluded`. Those of `SHADOWS` hold no decisions, but answers of shadows."""


_POPULATIONS: Final = {
    prediction_pb2.ASSIGNMENT_REASON_PAUSED: "paused",
    prediction_pb2.ASSIGNMENT_REASON_OVERRIDE: "override",
    prediction_pb2.ASSIGNMENT_REASON_HOLD_OUT: "hold_out",
    prediction_pb2.ASSIGNMENT_REASON_CONCLUDED: "concluded",
}


def population(assignment: prediction_pb2.Assignment) -> str:
    """Gives the population of a decision."""
    return "burn_in" if assignment.burn_in else _POPULATIONS.get(assignment.reason, EXPERIMENT)


class Cells:
    """The cells of a ledger, in memory; new ones are written by `store` in the transaction that uses them."""

    def __init__(self, rows: Sequence[tuple[int, Cell]], bounds: CellBounds) -> None:
        self._bounds = bounds
        self._ids: dict[Cell, int] = {}
        self._names: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._sizes: dict[str, int] = defaultdict(int)
        self._new: list[tuple[int, Cell]] = []
        self.overflow = 0
        """Decisions since the start that were counted under `~other`."""
        for cell_id, cell in rows:
            self._keep(cell_id, cell)

    @classmethod
    def load(cls, connection: Connection, bounds: CellBounds) -> Cells:
        """Reads the cells of a ledger."""
        return cls([(row[0], Cell(*row[1:])) for row in connection.execute(select(CELLS))], bounds)

    def id_of(self, cell: Cell) -> int:
        """Gives the number of a cell, or of the one that stands for it beyond the bounds."""
        known = self._ids.get(cell)
        return known if known is not None else self._settle(cell)

    def store(self, connection: Connection) -> None:
        """Writes the cells that are new."""
        bulk_insert(connection, CELLS, [(cell_id, *cell) for cell_id, cell in self._new])
        self._new.clear()

    def _settle(self, cell: Cell) -> int:
        family, bounds = cell.family, self._bounds
        full = self._sizes[family] >= bounds.cells
        kept = cell._replace(
            experiment=self._bounded(family, "experiment", cell.experiment, bounds.names),
            arm=self._bounded(family, "arm", cell.arm, bounds.names),
            variant=self._bounded(family, "variant", cell.variant, bounds.names),
            tenant=OTHER if full else self._bounded(family, "tenant", cell.tenant, bounds.tenants),
        )
        if kept != cell:
            self.overflow += 1
        known = self._ids.get(kept)
        if known is None:
            known = len(self._ids) + 1
            self._keep(known, kept)
            self._new.append((known, kept))
        return known

    def _bounded(self, family: str, kind: str, name: str, bound: int) -> str:
        names = self._names[family, kind]
        return name if name in names or len(names) < bound else OTHER

    def _keep(self, cell_id: int, cell: Cell) -> None:
        self._ids[cell] = cell_id
        self._sizes[cell.family] += 1
        for kind in ("experiment", "arm", "variant", "tenant"):
            name: str = getattr(cell, kind)
            if name != OTHER:
                self._names[cell.family, kind].add(name)
