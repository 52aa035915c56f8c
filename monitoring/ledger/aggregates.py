"""What monitoring reads: totals and distributions of features over any span, whatever the number of decisions.

All functions take an open connection (`Database.read(function, ...)`) and see one unchanging state. Spans are
[since_us, until_us) in microseconds since 1970-01-01T00:00Z and are widened to whole windows: minutes for the last
two days, hours for the last 90, days before that (`Retention`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, literal, select

from monitoring.ledger.cells import EXPERIMENT, SHADOWS, Cell
from monitoring.ledger.exact import as_float
from monitoring.ledger.feature_statistics import Distribution, FeatureStatistics
from monitoring.ledger.levels import END_US, Span
from monitoring.ledger.statistics import Statistics
from monitoring.ledger.tables import CELLS, COUNTERS, FEATURE_SETS, FEATURE_WINDOWS, WINDOWS, from_signed
from monitoring.ledger.tally import FIXED_POINT, REASONS, Calibration, Count, OutcomeSum, Sum
from monitoring.ledger.watermarks import feature_levels_of, levels_of
from monitoring.ledger.window_rows import TOTALS
from turnout.v1 import prediction_pb2

By = Literal["experiment", "arm", "variant", "tenant", "population"]
"""By what totals are told apart."""
Sketch = Literal["latency", "value", "confidence"]
SKETCHES: Final[tuple[Sketch, ...]] = get_args(Sketch)
Group = tuple[str, ...]
"""One name for each of `by`, in its order."""
ERRORS: Final = (
    prediction_pb2.FALLBACK_REASON_CONNECTION,
    prediction_pb2.FALLBACK_REASON_TIMEOUT,
    prediction_pb2.FALLBACK_REASON_ERROR,
    prediction_pb2.FALLBACK_REASON_INVALID,
)
"""Reasons of fallbacks that say that a variant was asked and failed."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals of some decisions. Means and rates are None where there is nothing to divide by."""

    statistics: Statistics

    def count(self, which: Count) -> int:
        """Gives one of the counts."""
        return int(self.statistics.tally.counts[which])

    @property
    def decisions(self) -> int:
        """Decisions."""
        return self.count(Count.DECISIONS)

    @property
    def served(self) -> int:
        """Decisions that the assigned arm's own variant answered."""
        return self.count(Count.REASON)

    @property
    def fallbacks(self) -> dict[int, int]:
        """Decisions that were answered otherwise, by the number of their FallbackReason; only what occurred."""
        reasons = self.statistics.tally.counts[Count.REASON : Count.REASON + REASONS].tolist()
        return {reason: count for reason, count in enumerate(reasons) if reason and count}

    @property
    def errors(self) -> int:
        """Decisions whose variant was asked and failed."""
        return sum(self.fallbacks.get(reason, 0) for reason in ERRORS)

    @property
    def outcomes(self) -> int:
        """Decisions with an outcome that can be used."""
        return self.count(Count.OUTCOMES)

    def sum(self, which: Sum | OutcomeSum) -> float:
        """Gives one of the sums, correctly rounded."""
        sums = self.statistics.tally.sums if isinstance(which, Sum) else self.statistics.tally.outcome_sums
        return as_float(sums[which])

    def mean(self, which: Sum | OutcomeSum) -> float | None:
        """Gives a sum over the number of its terms, correctly rounded."""
        sums = self.statistics.tally.sums if isinstance(which, Sum) else self.statistics.tally.outcome_sums
        match which:
            case Sum():
                number = self.decisions
            case OutcomeSum.COST | OutcomeSum.COST_SQUARED:
                number = self.count(Count.COSTS)
            case OutcomeSum.NDCG | OutcomeSum.NDCG_SQUARED:
                number = self.count(Count.RANKINGS)
            case _:
                number = self.outcomes
        return as_float(sums[which], number) if number else None

    @property
    def calibration(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Gives, by bin of the prediction, the number of outcomes, the sum of predictions and the sum of outcomes.

        Both sums are in the target's range scaled to [0, 1], so for a binary target they are sums of probabilities
        and the number of positives. Bins have equal width; a family that is not known has none filled.
        """
        table = self.statistics.tally.calibration
        return (
            table[Calibration.COUNT].copy(),
            table[Calibration.PREDICTION] / FIXED_POINT,
            table[Calibration.OUTCOME] / FIXED_POINT,
        )

    @property
    def decided(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Gives, by the same bins, the number of all decisions and the sum of their predictions, scaled likewise.

        Decisions that were counted before the ledger kept this are missing: the numbers then sum to less than
        `decisions`.
        """
        table = self.statistics.tally.calibration
        return table[Calibration.DECIDED].copy(), table[Calibration.DECIDED_PREDICTION] / FIXED_POINT

    def quantile(self, of: Sketch, rank: float) -> float | None:
        """Gives the smallest value that at least `rank` of all do not exceed, its rank within 1.65 %; latency in µs."""
        sketch = getattr(self.statistics, of)
        return None if sketch.is_empty() else float(sketch.get_quantile(rank, True))  # noqa: FBT003 - inclusive


@dataclass(frozen=True, slots=True)
class FeatureSummary:
    """Features of one variant over a span. Arrays have one entry a feature, in the order of `names`."""

    names: tuple[str, ...]
    schema_digest: int
    statistics: FeatureStatistics

    @property
    def rows(self) -> int:
        """Decisions."""
        return self.statistics.rows

    def distribution(self, name: str) -> Distribution:
        """Gives a feature's distribution: a `kll_floats_sketch`, or an int64 array of counts by code."""
        return self.statistics.distributions[self.names.index(name)]

    def null_rate(self, name: str) -> float | None:
        """Gives the share of rows without this feature; None without rows."""
        return int(self.statistics.nulls[self.names.index(name)]) / self.rows if self.rows else None


def window_totals(
    connection: Connection,
    family: str,
    only: Mapping[By, str] | None = None,
    since_us: int = 0,
    until_us: int = END_US,
    *,
    by: Sequence[By] = ("arm",),
    populations: Sequence[str] | None = (EXPERIMENT,),
    sketches: Sequence[Sketch] = SKETCHES,
) -> dict[Group, Totals]:
    """Gives the totals of a family's decisions, apart by the names in `by`.

    Args:
        connection: a reader's.
        family: whose decisions.
        only: only decisions of these names, such as {"tenant": "north"}; an empty name is any.
        since_us: decisions assigned at or after this instant.
        until_us: decisions assigned before this instant.
        by: which of experiment, arm, variant (that served), tenant and population tell totals apart; () for one.
        populations: only decisions of these (`Cell.population`); None for all decisions. What an analysis must leave
            out, like burn-in, is in others than `experiment`; answers of shadows come only where they are named.
        sketches: which distributions to read; the others stay empty. They are most of the cost.
    """
    found: dict[Group, Totals] = {}
    levels = levels_of(_counters(connection))
    groups = {number: _group(cell, by) for number, cell in _cells(connection, family, only, populations).items()}
    for span in levels.cover(since_us, until_us):
        for number, statistics, _ in _rows(connection, groups, span, sketches):
            _add(found, groups[number], statistics)
    return found


def window_series(
    connection: Connection,
    family: str,
    only: Mapping[By, str] | None = None,
    since_us: int = 0,
    until_us: int = END_US,
    *,
    length_us: int,
    by: Sequence[By] = ("arm",),
    populations: Sequence[str] | None = (EXPERIMENT,),
) -> list[tuple[int, dict[Group, Totals]]]:
    """Gives totals in steps of `length_us`, as (start of the step, totals), only steps with decisions, oldest first.

    A step cannot be shorter than the windows that are kept for its time: decisions of a longer window count in the
    step in which it begins. The other arguments are those of `window_totals`.
    """
    steps: dict[int, dict[Group, Totals]] = {}
    levels = levels_of(_counters(connection))
    groups = {number: _group(cell, by) for number, cell in _cells(connection, family, only, populations).items()}
    for span in levels.cover(since_us, until_us, length_us):
        for number, statistics, start in _rows(connection, groups, span):
            _add(steps.setdefault(start // length_us * length_us, {}), groups[number], statistics)
    return sorted(steps.items())


def feature_sketches(
    connection: Connection,
    family: str,
    variant: str | None = None,
    since_us: int = 0,
    until_us: int = END_US,
    *,
    schema_digest: int | None = None,
) -> dict[str, FeatureSummary]:
    """Gives the features that each served variant saw, by variant.

    Args:
        connection: a reader's.
        family: whose decisions.
        variant: only this one; None: all.
        since_us: decisions assigned at or after this instant.
        until_us: decisions assigned before this instant.
        schema_digest: only rows of this schema; None: of the one that was seen last in each variant.
    """
    sets = {
        row.feature_set: row
        for row in connection.execute(
            select(FEATURE_SETS).where(FEATURE_SETS.c.family == family).order_by(FEATURE_SETS.c.feature_set)
        )
        if variant in (None, row.variant) and schema_digest in (None, from_signed(row.schema_digest))
    }
    newest = {row.variant: number for number, row in sets.items()}
    spans = feature_levels_of(_counters(connection)).cover(since_us, until_us)
    found: dict[str, FeatureSummary] = {}
    for name, number in newest.items():
        features = json.loads(sets[number].features)
        sizes = [size for _, size in features]
        whole = FeatureStatistics.of_sizes(sizes)
        for span in spans:
            held = (FEATURE_WINDOWS.c.feature_set == number) & _inside(FEATURE_WINDOWS, span)
            statement = select(FEATURE_WINDOWS.c.row_count, FEATURE_WINDOWS.c.statistics).where(held)
            for rows, data in connection.execute(statement):
                whole.merge(FeatureStatistics.unpack(rows, data, sizes))
        if whole.rows:
            digest = from_signed(sets[number].schema_digest)
            found[name] = FeatureSummary(tuple(one for one, _ in features), digest, whole)
    return found


def experiments(connection: Connection) -> list[tuple[str, str]]:
    """Lists the families and experiments that there are decisions of."""
    rows = connection.execute(select(CELLS.c.family, CELLS.c.experiment).distinct())
    return sorted((row.family, row.experiment) for row in rows)


def _counters(connection: Connection) -> dict[str, int]:
    return {row.name: row.value for row in connection.execute(select(COUNTERS))}


def _cells(
    connection: Connection, family: str, only: Mapping[By, str] | None, populations: Sequence[str] | None
) -> dict[int, Cell]:
    statement = select(CELLS).where(CELLS.c.family == family)
    for name, wanted in (only or {}).items():
        if wanted:
            statement = statement.where(CELLS.c[name] == wanted)
    chosen = CELLS.c.population.not_in(SHADOWS) if populations is None else CELLS.c.population.in_(populations)
    statement = statement.where(chosen)
    return {row[0]: Cell(*row[1:]) for row in connection.execute(statement)}


def _group(cell: Cell, by: Sequence[By]) -> Group:
    return tuple(str(getattr(cell, name)) for name in by)


def _add(totals: dict[Group, Totals], group: Group, statistics: Statistics) -> None:
    present = totals.get(group)
    if present is None:
        totals[group] = Totals(statistics)
    else:
        present.statistics.merge(statistics)


def _rows(
    connection: Connection, cells: Mapping[int, object], span: Span, sketches: Sequence[Sketch] = SKETCHES
) -> Iterator[tuple[int, Statistics, int]]:
    unread = [name for name in SKETCHES if name not in sketches]
    columns = [literal(b"").label(column.name) if column.name in unread else column for column in WINDOWS.c]
    numbers = list(cells)
    for place in range(0, len(numbers), 500):
        chosen = WINDOWS.c.cell.in_(numbers[place : place + 500])
        statement = select(*columns).where(chosen, _inside(WINDOWS, span))
        for row in connection.execution_options(yield_per=200).execute(statement):
            yield row[0], TOTALS.decode(row[0], tuple(row[3:])), row[2]


def _inside(table: Any, span: Span) -> Any:
    return (
        (table.c.length_us == span.length_us) & (table.c.start_us >= span.start_us) & (table.c.start_us < span.end_us)
    )
