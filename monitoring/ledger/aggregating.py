"""Keeps the aggregates in step with the rows: what a transaction adds and takes away, it does here too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from monitoring.ledger.cells import Cells
from monitoring.ledger.families import Describe
from monitoring.ledger.feature_sets import FeatureSets
from monitoring.ledger.feature_statistics import FeatureStatistics
from monitoring.ledger.levels import MINUTE_US, Levels
from monitoring.ledger.rows import DecisionRow, Features
from monitoring.ledger.statistics import Statistics
from monitoring.ledger.tally import REASONS, Decisions, Outcomes, Tally
from monitoring.ledger.window_rows import TOTALS, Held, Key, WindowRows, features

_TOTALS_KEPT: Final = 1024
_FEATURES_KEPT: Final = 64


class OutcomeChange(NamedTuple):
    """An outcome that is added to (sign 1) or taken away from (−1) its decision's cell."""

    sign: int
    cell: int
    family: str
    assigned_at_us: int
    value: float
    outcome: float
    cost: float
    """NaN when none was reported."""
    key: tuple[str, str] = ("", "")
    """(tenant, id) of the decision, where its own outcome moved."""


class RankingChange(NamedTuple):
    """A ranking that is added to (sign 1) or taken away from (−1) a cell."""

    sign: int
    cell: int
    family: str
    assigned_at_us: int
    """Of its first candidate."""
    ndcg: float


class Counted(NamedTuple):
    """What is counted of an answer that is no decision: of a shadow's, or of what it is compared with."""

    family: str
    assigned_at_us: int
    value: float
    confidence: float
    latency_us: int
    fallback: int = 0


@dataclass(slots=True)
class Changes:
    """What one transaction does to the rows."""

    added: list[tuple[int, DecisionRow]] = field(default_factory=list)
    """New decisions with their cells."""
    removed: list[tuple[int, DecisionRow]] = field(default_factory=list)
    """Decisions that gave way to an earlier record of the same id."""
    outcomes: list[OutcomeChange] = field(default_factory=list)
    features: list[Features] = field(default_factory=list)
    """Rows of features of the decisions that were added."""
    shadows_added: list[tuple[int, Counted]] = field(default_factory=list)
    """New answers of shadows, and what they are compared with, with their cells."""
    shadows_removed: list[tuple[int, Counted]] = field(default_factory=list)
    """Those that gave way to an earlier decision's."""
    shadow_outcomes: list[OutcomeChange] = field(default_factory=list)
    rankings: list[RankingChange] = field(default_factory=list)


class Aggregates:
    """The aggregates of a ledger, as far as they are in memory."""

    def __init__(self, cells: Cells, sets: FeatureSets, *, levels: Levels, feature_levels: Levels) -> None:
        self.cells = cells
        self.sets = sets
        self.levels = levels
        self.feature_levels = feature_levels
        self.totals = WindowRows(TOTALS, limit=_TOTALS_KEPT)
        self.features = WindowRows(features(sets.sizes), limit=_FEATURES_KEPT)

    def apply(self, connection: Connection, changes: Changes, describe: Describe) -> None:
        """Brings the aggregates in step; to be called in the transaction that changes the rows."""
        self.cells.store(connection)
        added: list[tuple[int, DecisionRow | Counted]] = [*changes.added, *changes.shadows_added]
        removed: list[tuple[int, DecisionRow | Counted]] = [*changes.removed, *changes.shadows_removed]
        decisions = [(sign, _Grouped(rows)) for sign, rows in ((1, added), (-1, removed)) if rows]
        outcomes = _group_outcomes([*changes.outcomes, *changes.shadow_outcomes])
        keys = {key for _, grouped in decisions for group in grouped.keys for key in self._keys(*group)}
        keys.update(key for cell, _, minute in outcomes for key in self._keys(cell, minute))
        rankings = _group_rankings(changes.rankings)
        keys.update(key for group in rankings for key in self._keys(*group))
        windows = self.totals.get(connection, keys, lambda _: Statistics())
        for sign, grouped in decisions:
            for group, rows in grouped.groups():
                tally = Tally.of_decisions(rows, sign, describe(grouped.families[group[0]]).target)
                for key in self._keys(*group):
                    held = windows[key]
                    held.changed, held.only_outcomes = True, False
                    held.statistics.tally.add(tally)
                    if sign > 0:
                        held.statistics.observe(rows)
        for (cell, family, minute), reported in outcomes.items():
            tally = Tally.of_outcomes(reported, describe(family).target)
            for key in self._keys(cell, minute):
                windows[key].changed = True
                windows[key].statistics.tally.add(tally)
        for group, (signs, values) in rankings.items():
            tally = Tally.of_rankings(signs, values)
            for key in self._keys(*group):
                windows[key].changed = True
                windows[key].statistics.tally.add(tally)
        self.totals.write(connection, windows.items())
        self._features(connection, changes.features, describe)

    def _keys(self, cell: int, minute: int) -> list[Key]:
        return [Key(cell, span.length_us, span.start_us) for span in self.levels.of(minute)]

    def _features(self, connection: Connection, rows: Sequence[Features], describe: Describe) -> None:
        grouped: dict[tuple[int, int], list[bytes]] = defaultdict(list)
        for row in rows:
            schema = describe(row.family).schema
            if schema is None or schema.digest != row.schema_digest or len(row.packed) != schema.row_bytes:
                self.sets.unknown += 1
                continue
            feature_set = self.sets.id_of(row.family, row.variant, schema)
            if feature_set is not None:
                grouped[feature_set, row.assigned_at_us // MINUTE_US * MINUTE_US].append(row.packed)
        self.sets.store(connection)
        keys = {
            group: [Key(group[0], span.length_us, span.start_us) for span in self.feature_levels.of(group[1])]
            for group in grouped
        }
        wanted = [key for found in keys.values() for key in found]
        windows = self.features.get(connection, dict.fromkeys(wanted), lambda key: self.sets.empty(key.of))
        for group, packed in grouped.items():
            width = len(self.sets.sizes(group[0]))
            table = np.frombuffer(b"".join(packed), "<f4").reshape(len(packed), width)
            for key in keys[group]:
                _add_features(windows[key], table)
        self.features.write(connection, windows.items())


def _add_features(held: Held[FeatureStatistics], table: NDArray[np.float32]) -> None:
    held.changed, held.only_outcomes = True, False
    held.statistics.add(table)


class _Grouped:
    """Decisions by cell and minute."""

    def __init__(self, rows: Sequence[tuple[int, DecisionRow | Counted]]) -> None:
        self.families = {cell: row.family for cell, row in rows}
        """Of each cell."""
        cells = np.array([cell for cell, _ in rows], np.int64)
        minutes = np.array([row.assigned_at_us for _, row in rows], np.int64) // MINUTE_US * MINUTE_US
        self._rows = Decisions(
            np.array([row.value for _, row in rows], np.float64),
            np.array([row.confidence for _, row in rows], np.float64),
            np.array([row.latency_us for _, row in rows], np.float64),
            np.clip(np.array([row.fallback for _, row in rows], np.int64), 0, REASONS - 1),
        )
        order = np.lexsort((minutes, cells))
        cells, minutes = cells[order], minutes[order]
        breaks = np.flatnonzero((np.diff(cells) != 0) | (np.diff(minutes) != 0)) + 1
        self._parts = np.split(order, breaks)
        starts = np.concatenate(([0], breaks))
        self.keys = list(zip(cells[starts].tolist(), minutes[starts].tolist(), strict=True))

    def groups(self) -> Iterator[tuple[tuple[int, int], Decisions]]:
        """Gives each (cell, minute) with the columns of its decisions."""
        for key, part in zip(self.keys, self._parts, strict=True):
            yield key, self._rows.of(part)


def _group_rankings(
    changes: Sequence[RankingChange],
) -> dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.float64]]]:
    grouped: dict[tuple[int, int], list[RankingChange]] = defaultdict(list)
    for change in changes:
        grouped[change.cell, change.assigned_at_us // MINUTE_US * MINUTE_US].append(change)
    return {
        key: (np.array([row.sign for row in rows], np.int64), np.array([row.ndcg for row in rows], np.float64))
        for key, rows in grouped.items()
    }


def _group_outcomes(changes: Sequence[OutcomeChange]) -> dict[tuple[int, str, int], Outcomes]:
    grouped: dict[tuple[int, str, int], list[OutcomeChange]] = defaultdict(list)
    for change in changes:
        grouped[change.cell, change.family, change.assigned_at_us // MINUTE_US * MINUTE_US].append(change)
    return {
        key: Outcomes(
            np.array([row.sign for row in rows], np.int64),
            np.array([row.value for row in rows], np.float64),
            np.array([row.outcome for row in rows], np.float64),
            np.array([row.cost for row in rows], np.float64),
        )
        for key, rows in grouped.items()
    }
