"""Rows by column: the same checks and the same vectors as `Schema.encode`, at a fraction of the cost a row.

A column that keeps all bounds is taken as a whole. As soon as one does not, the rows are encoded one by one, so that
what is refused, and the sentence that says why, are those of a single row.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Final, NamedTuple, overload

from bentos.schema import NAN, Category, Flag, Missing, Number, OutOfRange, Schema, Unknown
from services.runtime.errors import InvalidArgument

FLAGS: Final = (NAN, 0.0, 1.0)
"""Values of a flag by its place: not known, false, true."""


class Categories(NamedTuple):
    """A column of categories: those that occur, and for each row 0 (not known) or a place in `values` from 1."""

    values: Sequence[str]
    places: Sequence[int]


@dataclass(frozen=True, slots=True)
class Columns:
    """Features by name, each with one entry a row. NaN in a number and place 0 elsewhere mean "not known"."""

    rows: int
    numbers: Mapping[str, Sequence[float]]
    categories: Mapping[str, Categories]
    flags: Mapping[str, Sequence[int]]
    """0 not known, 1 false, 2 true."""


class Vectors(Sequence[tuple[float, ...]]):
    """Packed rows as vectors; each is unpacked when it is asked for."""

    def __init__(self, schema: Schema, packed: bytes) -> None:
        self._schema = schema
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed) // self._schema.row_bytes

    @overload
    def __getitem__(self, row: int) -> tuple[float, ...]: ...
    @overload
    def __getitem__(self, row: slice) -> list[tuple[float, ...]]: ...
    def __getitem__(self, row: int | slice) -> tuple[float, ...] | list[tuple[float, ...]]:
        """Unpacks a row, or some."""
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(row)
        size = self._schema.row_bytes
        return self._schema.decode(self._packed[row * size : (row + 1) * size])


class _Odd(Exception):
    """Some column needs its rows looked at one by one."""


class ColumnEncoder:
    """Encodes rows of one schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        places = {feature.name: place for place, feature in enumerate(schema.features)}
        self._numbers = {f.name: (places[f.name], f) for f in schema.features if isinstance(f, Number)}
        self._categories = {
            f.name: (places[f.name], f, {value: float(code) for code, value in enumerate(f.values)})
            for f in schema.features
            if isinstance(f, Category)
        }
        self._flags = {f.name: places[f.name] for f in schema.features if isinstance(f, Flag)}
        self._required = tuple(place for place, f in enumerate(schema.features) if f.missing is Missing.REJECT)

    def encode(self, columns: Columns) -> bytes:
        """Checks rows and gives them packed one after the other, each as `Schema.encode` packs it.

        Raises:
            InvalidArgument: a column has not one entry a row; or names the first row at fault, as
                "rows[3].numbers[hour]" and "row 3: …".
        """
        _check_lengths(columns)
        try:
            by_feature = self._whole(columns)
        except _Odd:
            return self._row_by_row(columns)
        return _interleaved(by_feature, columns.rows)

    def _whole(self, columns: Columns) -> list[Sequence[float]]:
        """Gives a column a feature, in the schema's order.

        Raises:
            _Odd: some row may have to be refused.
        """
        blank = (NAN,) * columns.rows
        by_feature: list[Sequence[float]] = [blank] * len(self.schema)
        for name, numbers in columns.numbers.items():
            number = self._numbers.get(name)
            if number is None:
                raise _Odd
            by_feature[number[0]] = _numbers(numbers, number[1])
        for name, (values, chosen) in columns.categories.items():
            category = self._categories.get(name)
            if category is None:
                raise _Odd
            place, feature, codes = category
            if feature.unknown is Unknown.REJECT and not all(value in codes for value in values):
                raise _Odd
            by_feature[place] = _chosen((NAN, *[codes.get(value, NAN) for value in values]), chosen)
        for name, flags in columns.flags.items():
            flag = self._flags.get(name)
            if flag is None:
                raise _Odd
            by_feature[flag] = _chosen(FLAGS, flags)
        for place in self._required:
            if not isfinite(sum(by_feature[place])):
                raise _Odd
        return by_feature

    def _row_by_row(self, columns: Columns) -> bytes:
        packed: list[bytes] = []
        for row in range(columns.rows):
            try:
                one, _ = self.schema.encode(*row_of(columns, row))
            except InvalidArgument as error:
                raise of_row(row, error) from None
            packed.append(one)
        self._check_names(columns)
        return b"".join(packed)

    def _check_names(self, columns: Columns) -> None:
        """Refuses a column that is no feature of its kind; one with a known cell was refused with that cell's row."""
        for name in columns.numbers.keys() - self._numbers.keys():
            self.schema.encode({name: 0.0}, {}, {})
        for name in columns.categories.keys() - self._categories.keys():
            self.schema.encode({}, {name: ""}, {})
        for name in columns.flags.keys() - self._flags.keys():
            self.schema.encode({}, {}, {name: False})


def row_of(columns: Columns, row: int) -> tuple[dict[str, float], dict[str, str], dict[str, bool]]:
    """Gives what is known of one row, as `Schema.encode` takes it.

    Raises:
        InvalidArgument: a category's or a flag's place does not exist.
    """
    numbers = {name: column[row] for name, column in columns.numbers.items() if not isnan(column[row])}
    categories: dict[str, str] = {}
    for name, (values, places) in columns.categories.items():
        if places[row] > len(values):
            raise InvalidArgument(
                f"categories[{name[:64]}]", f"feature {name[:64]!r} has {len(values)} values, not a value {places[row]}"
            )
        if places[row]:
            categories[name] = values[places[row] - 1]
    flags: dict[str, bool] = {}
    for name, column in columns.flags.items():
        if not 0 <= column[row] < len(FLAGS):
            raise InvalidArgument(
                f"flags[{name[:64]}]", f"feature {name[:64]!r} must be 0 (not known), 1 (false) or 2 (true)"
            )
        if column[row]:
            flags[name] = column[row] == FLAGS.index(1.0)
    return numbers, categories, flags


def of_row(row: int, error: InvalidArgument) -> InvalidArgument:
    """Gives an error of one row as that of a batch: it names the row."""
    return InvalidArgument(f"rows[{row}].{error.field}", f"row {row}: {error.message}")


def _interleaved(by_feature: Sequence[Sequence[float]], rows: int) -> bytes:
    """Rounds columns to float32 and puts them row by row."""
    width = len(by_feature)
    matrix = array("f", bytes(4 * width * rows))
    for place, values in enumerate(by_feature):
        matrix[place::width] = array("f", values)
    if sys.byteorder == "big":
        matrix.byteswap()
    return matrix.tobytes()


def _numbers(values: Sequence[float], feature: Number) -> Sequence[float]:
    known: Sequence[float] = values
    # A sum is finite only if all are; it is the cheapest way to look at all of them.
    if not isfinite(sum(values)):
        known = [value for value in values if not isnan(value)]
        # A NaN from outside may have any bits; all vectors hold the same.
        values = [NAN if isnan(value) else value for value in values]
    if not known:
        return values
    lowest, highest = min(known), max(known)
    if feature.low <= lowest and highest <= feature.high:
        return values
    if feature.out_of_range is OutOfRange.CLIP and isfinite(lowest) and isfinite(highest):
        return [NAN if isnan(value) else min(max(value, feature.low), feature.high) for value in values]
    raise _Odd


def _chosen(table: Sequence[float], places: Sequence[int]) -> Sequence[float]:
    if min(places) < 0 or max(places) >= len(table):
        raise _Odd
    return [table[place] for place in places]


def _check_lengths(columns: Columns) -> None:
    rows = columns.rows
    for name, numbers in columns.numbers.items():
        if len(numbers) != rows:
            raise _length("numbers", name, len(numbers), rows)
    for name, (_, places) in columns.categories.items():
        if len(places) != rows:
            raise _length("categories", name, len(places), rows)
    for name, flags in columns.flags.items():
        if len(flags) != rows:
            raise _length("flags", name, len(flags), rows)


def _length(kind: str, name: str, entries: int, rows: int) -> InvalidArgument:
    return InvalidArgument(
        f"{kind}[{name[:64]}]", f"column {name[:64]!r} must have one entry a row, {rows}, not {entries}"
    )
