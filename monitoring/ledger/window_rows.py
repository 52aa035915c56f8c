"""The rows of windows: read into memory when they are first changed, and written once a transaction."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

from sqlalchemy import Column, Connection, Table, Update, bindparam, select, update

from monitoring.ledger.feature_statistics import FeatureStatistics
from monitoring.ledger.statistics import Statistics
from monitoring.ledger.tables import FEATURE_WINDOWS, WINDOWS
from services.runtime.database import bulk_insert

_CHUNK: Final = 500
S = TypeVar("S")


class Key(NamedTuple):
    """Which window of what: `of` is a cell or a feature set."""

    of: int
    length_us: int
    start_us: int


@dataclass(slots=True)
class Held(Generic[S]):
    """A window in memory."""

    statistics: S
    stored: bool
    """Whether its row is there."""
    changed: bool = False
    only_outcomes: bool = True
    """Whether only what outcomes change was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[S]):
    """One of the two tables of windows, and how its rows are read and written."""

    table: Table
    decode: Callable[[int, tuple[Any, ...]], S]
    """Gives the statistics of a row: of which cell or feature set it is, and the columns after the key."""
    encode: Callable[[S], tuple[Any, ...]]
    encode_outcomes: Callable[[S], tuple[Any, ...]] | None
    """Gives only those columns, the first of all, that outcomes change."""
    outcome_columns: int


TOTALS: Final[Kind[Statistics]] = Kind(
    table=WINDOWS,
    decode=lambda _of, columns: Statistics.from_columns(*columns),
    encode=lambda statistics: statistics.as_columns(),
    encode_outcomes=lambda statistics: statistics.outcome_columns(),
    outcome_columns=3,
)


def features(sizes: Callable[[int], list[int | None]]) -> Kind[FeatureStatistics]:
    """Gives the windows of features; `sizes` tells how many codes each feature of a set has."""
    return Kind(
        table=FEATURE_WINDOWS,
        decode=lambda of, columns: FeatureStatistics.unpack(columns[0], columns[1], sizes(of)),
        encode=lambda statistics: (statistics.rows, statistics.pack()),
        encode_outcomes=None,
        outcome_columns=0,
    )


class WindowRows(Generic[S]):
    """The windows of one kind. What it holds is what the database holds, as long as every transaction succeeds."""

    def __init__(self, kind: Kind[S], *, limit: int) -> None:
        self._kind = kind
        self._limit = limit
        self._held: OrderedDict[Key, Held[S]] = OrderedDict()
        names = [column.name for column in kind.table.columns][3:]
        self._update = _update(kind.table, names)
        self._update_outcomes = _update(kind.table, names[: kind.outcome_columns]) if kind.outcome_columns else None

    def get(self, connection: Connection, keys: Iterable[Key], empty: Callable[[Key], S]) -> dict[Key, Held[S]]:
        """Gives the windows of these keys; one that has no row yet is made by `empty`."""
        found: dict[Key, Held[S]] = {}
        missing: dict[tuple[int, int], list[int]] = defaultdict(list)
        for key in keys:
            held = self._held.get(key)
            if held is None:
                missing[key.of, key.length_us].append(key.start_us)
            else:
                self._held.move_to_end(key)
                found[key] = held
        for (of, length), starts in missing.items():
            for key, statistics in self._read(connection, of, length, starts):
                found[key] = self._held[key] = Held(statistics, stored=True)
            for start in starts:
                key = Key(of, length, start)
                if key not in found:
                    found[key] = self._held[key] = Held(empty(key), stored=False)
        return found

    def write(self, connection: Connection, windows: Iterable[tuple[Key, Held[S]]]) -> None:
        """Writes those of these windows that changed, then forgets the ones that were not used for longest."""
        fresh, whole, parts = [], [], []
        for key, held in windows:
            if not held.changed:
                continue
            if not held.stored:
                fresh.append((*key, *self._kind.encode(held.statistics)))
            elif held.only_outcomes and self._kind.encode_outcomes is not None:
                parts.append((*key, *self._kind.encode_outcomes(held.statistics)))
            else:
                whole.append((*key, *self._kind.encode(held.statistics)))
            held.stored, held.changed, held.only_outcomes = True, False, True
        bulk_insert(connection, self._kind.table, fresh)
        for statement, rows in ((self._update, whole), (self._update_outcomes, parts)):
            if rows and statement is not None:
                connection.execute(statement, [{f"b_{n}": v for n, v in enumerate(row)} for row in rows])
        while len(self._held) > self._limit:
            self._held.popitem(last=False)

    def forget(self) -> None:
        """Forgets all windows; they are read again when they are needed."""
        self._held.clear()

    def _read(self, connection: Connection, of: int, length: int, starts: list[int]) -> Iterable[tuple[Key, S]]:
        table = self._kind.table
        owner: Column[int] = next(iter(table.columns))
        for place in range(0, len(starts), _CHUNK):
            chosen = table.c.start_us.in_(starts[place : place + _CHUNK])
            statement = select(table).where(owner == of, table.c.length_us == length, chosen)
            for row in connection.execute(statement):
                yield Key(*row[:3]), self._kind.decode(of, tuple(row[3:]))


def _update(table: Table, names: list[str]) -> Update:
    keys = list(table.primary_key)
    values: dict[str, Any] = {name: bindparam(f"b_{place}") for place, name in enumerate(names, start=len(keys))}
    matching = (column == bindparam(f"b_{place}") for place, column in enumerate(keys))
    return update(table).where(*matching).values(values)
