"""Rows by column are the rows one by one: the same bytes, or the same refusal of the same row and feature."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.columns import Categories, ColumnEncoder, Columns, Vectors, of_row
from bentos.schema import Category, Flag, Missing, Number, OutOfRange, Schema, Unknown
from services.runtime.errors import InvalidArgument

SCHEMA = Schema(
    (
        Number(name="must", unit="1", low=1, high=5, description="", missing=Missing.REJECT),
        Number(name="strict", unit="1", low=-2, high=2, description=""),
        Number(name="clipped", unit="1", low=0, high=10, description="", out_of_range=OutOfRange.CLIP),
        Category(name="colour", values=("red", "green"), description=""),
        Category(name="lax", values=("a", "b"), description="", unknown=Unknown.MISSING),
        Flag(name="raining", description=""),
    )
)
NUMBERS = {
    "must": st.floats(1, 5),
    "strict": st.floats(-2, 2),
    "clipped": st.floats(-20, 20),
}
GOOD = st.fixed_dictionaries(
    {"must": NUMBERS["must"]},
    optional={
        "strict": NUMBERS["strict"],
        "clipped": NUMBERS["clipped"],
        "colour": st.sampled_from(("red", "green")),
        "lax": st.sampled_from(("a", "b", "c", "")),
        "raining": st.booleans(),
    },
)
ANY = st.fixed_dictionaries(
    {},
    optional={
        "must": st.floats(0, 6),
        "strict": st.floats(allow_nan=False),
        "clipped": st.floats(allow_nan=False, width=32),
        "colour": st.sampled_from(("red", "green", "blue", "")),
        "lax": st.sampled_from(("a", "c")),
        "raining": st.booleans(),
        "stranger": st.floats(0, 1),
    },
)
Row = dict[str, Any]


def kinds(row: Row, names: list[str]) -> tuple[Row, Row, Row]:
    """A row's features by kind (numbers, categories, flags), in the order of the batch's columns."""
    ordered = {name: row[name] for name in names if name in row}
    numbers, categories, flags = (
        {name: value for name, value in ordered.items() if type(value) is kind} for kind in (float, str, bool)
    )
    return numbers, categories, flags


def columns(rows: list[Row]) -> tuple[Columns, list[str]]:
    """The columns of rows, and the order of their names."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numbers: dict[str, list[float]] = {}
    categories: dict[str, Categories] = {}
    flags: dict[str, list[int]] = {}
    for name in names:
        cells = [row.get(name) for row in rows]
        known = [cell for cell in cells if cell is not None]
        if type(known[0]) is float:
            numbers[name] = [math.nan if cell is None else cell for cell in cells]
        elif type(known[0]) is str:
            texts = list(dict.fromkeys(known))
            categories[name] = Categories(texts, [0 if cell is None else 1 + texts.index(cell) for cell in cells])
        else:
            flags[name] = [0 if cell is None else 1 + cell for cell in cells]
    return Columns(len(rows), numbers, categories, flags), names


def one_by_one(rows: list[Row], names: list[str]) -> bytes | tuple[str, str]:
    """The packed rows, or field and sentence of the first refusal."""
    packed = b""
    for place, row in enumerate(rows):
        try:
            packed += SCHEMA.encode(*kinds(row, names))[0]
        except InvalidArgument as error:
            refused = of_row(place, error)
            return refused.field, refused.message
    return packed


def by_column(given_columns: Columns) -> bytes | tuple[str, str]:
    """The same of the columns."""
    try:
        return ColumnEncoder(SCHEMA).encode(given_columns)
    except InvalidArgument as error:
        return error.field, error.message


@given(st.lists(GOOD, min_size=1, max_size=8))
def test_good_rows_have_the_same_bytes(rows: list[Row]) -> None:
    """Clipping, unknown categories that count as missing, and missing cells included."""
    given_columns, names = columns(rows)
    expected = one_by_one(rows, names)
    assert isinstance(expected, bytes)
    assert by_column(given_columns) == expected
    size = SCHEMA.row_bytes
    assert [struct.pack("<6f", *vector) for vector in Vectors(SCHEMA, expected)] == [
        expected[at : at + size] for at in range(0, len(expected), size)
    ]


@given(st.lists(GOOD | ANY, min_size=1, max_size=5))
def test_rows_of_any_kind_are_taken_or_refused_alike(rows: list[Row]) -> None:
    """The first row at fault, its field, and the very sentence."""
    given_columns, names = columns(rows)
    assert by_column(given_columns) == one_by_one(rows, names)


def test_every_nan_is_the_same_missing() -> None:
    """A NaN with other bits leaves no trace in the rows."""
    (odd,) = struct.unpack("<d", b"\x01\x00\x00\x00\x00\x00\xf8\xff")
    packed = [by_column(Columns(1, {"must": [1.0], "strict": [nan]}, {}, {})) for nan in (odd, math.nan)]
    assert packed[0] == packed[1] == SCHEMA.encode({"must": 1.0}, {}, {})[0]


@pytest.mark.parametrize(
    ("wrong", "field", "sentence"),
    [
        (Columns(2, {"must": [1.0]}, {}, {}), "numbers[must]", "one entry a row, 2, not 1"),
        (Columns(1, {"must": [1.0]}, {}, {"raining": []}), "flags[raining]", "one entry a row, 1, not 0"),
        (Columns(1, {"must": [1.0]}, {"colour": Categories(["red"], [])}, {}), "categories[colour]", "one entry a row"),
        (
            Columns(1, {"must": [1.0]}, {"colour": Categories(["red"], [2])}, {}),
            "rows[0].categories[colour]",
            "value 2",
        ),
        (Columns(2, {"must": [1.0] * 2}, {}, {"raining": [1, 3]}), "rows[1].flags[raining]", "row 1: "),
        (Columns(1, {"must": [1.0]}, {}, {"raining": [-1]}), "rows[0].flags[raining]", "2 (true)"),
        (Columns(1, {"must": [1.0], "new": [math.nan]}, {}, {}), "numbers[new]", "not in the schema"),
        (Columns(1, {"must": [1.0]}, {"must": Categories([], [0])}, {}), "categories[must]", "belongs in numbers"),
        (Columns(1, {"must": [1.0]}, {}, {"new": [0]}), "flags[new]", "not in the schema"),
    ],
)
def test_a_wrong_column_is_refused_by_its_field(wrong: Columns, field: str, sentence: str) -> None:
    """Also one without a single known cell, which no row would show."""
    said = by_column(wrong)
    assert said[0] == field
    assert sentence in str(said[1])
