"""The table format of JEMSS files: several named tables in one CSV file.

A table is a row with its name (and, if given, its numbers of rows and columns in the second and third cell; anything
further is a remark), a header row that ends at its first empty cell, and rows up to one whose first cell is empty.
Source: `readTablesFromData` in src/file/file_io.jl of github.com/uoa-ems-research/JEMSS.jl.
"""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from services.dispatch.distributions import parse_number
from services.runtime.errors import InvalidArgument

MAX_FILE_BYTES: Final = 1 << 30
_MAX_COLUMNS: Final = 1000

BytesRead = Callable[[int], None]
"""Called with how many more bytes were read."""


@dataclass(frozen=True, slots=True)
class Source:
    """A CSV file in a city folder, or in a zip archive there. `label` names it in errors."""

    label: str
    path: Path
    member: str | None = None

    def size(self) -> int:
        """Size of the text in bytes.

        Raises:
            InvalidArgument: the file cannot be read, or is over 1 GiB.
        """
        try:
            if self.member is None:
                size = self.path.stat().st_size
            else:
                with zipfile.ZipFile(self.path) as archive:
                    size = archive.getinfo(self.member).file_size
        except (OSError, KeyError, zipfile.BadZipFile):
            raise InvalidArgument("city", f"{self.label}: the file cannot be read") from None
        if size > MAX_FILE_BYTES:
            raise InvalidArgument("city", f"{self.label}: a file has at most {MAX_FILE_BYTES} bytes, not {size}")
        return size

    @contextmanager
    def lines(self, read: BytesRead) -> Iterator[Iterator[str]]:
        """Opens the file and gives its lines one by one."""
        if self.member is None:
            with self.path.open("rb") as raw:
                yield self._decoded(raw, read)
        else:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as raw:
                yield self._decoded(io.BufferedReader(raw), read)  # type: ignore[type-var, unused-ignore]

    def _decoded(self, raw: Iterator[bytes], read: BytesRead) -> Iterator[str]:
        for number, line in enumerate(raw, start=1):
            read(len(line))
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise self.wrong(number, "the text must be UTF-8") from None

    def wrong(self, line: int, what: str) -> InvalidArgument:
        """Makes the error that names this file and a line."""
        return InvalidArgument("city", f"{self.label}, line {line}: {what}")


class Row(NamedTuple):
    """A row of a table: its cells by column name, and where it stands."""

    table: str
    line: int
    cells: dict[str, str]
    source: Source

    def text(self, column: str) -> str:
        """A cell as text.

        Raises:
            InvalidArgument: the table has no such column.
        """
        found = self.cells.get(column)
        if found is None:
            raise self.source.wrong(self.line, f"table {self.table!r} has no column {column!r}")
        return found

    def number(self, column: str, *, low: float = -math.inf, high: float = math.inf) -> float:
        """A cell as a finite number from `low` to `high`; an expression such as `8/60/24` counts as its value.

        Raises:
            InvalidArgument: the cell is absent, no number, or outside of the bounds.
        """
        text = self.text(column)
        try:
            try:
                value = float(text)
            except ValueError:
                value = parse_number(text)
        except ValueError:
            raise self.source.wrong(self.line, f"{column} must be a number, not {text[:40]!r}") from None
        if not low <= value <= high or not math.isfinite(value):
            raise self.source.wrong(self.line, f"{column} must be a number from {low:g} to {high:g}, not {value:g}")
        return value

    def integer(self, column: str, *, low: int = 0, high: int = 1 << 31) -> int:
        """A cell as a whole number from `low` to `high`; `3.0` counts as 3.

        Raises:
            InvalidArgument: the cell is absent, no whole number, or outside of the bounds.
        """
        value = self.number(column, low=low, high=high)
        if value != int(value):
            raise self.source.wrong(self.line, f"{column} must be a whole number, not {value:g}")
        return int(value)

    def expect_index(self, expected: int) -> None:
        """Refuses a row whose `index` is not the next one.

        Raises:
            InvalidArgument: names the line and the number expected.
        """
        if self.integer("index") != expected:
            raise self.source.wrong(self.line, f"index must be {expected}, not {self.text('index')[:40]}")


def rows(source: Source, read: BytesRead) -> Iterator[Row]:
    """Reads all tables of a file row by row, in constant memory.

    Raises:
        InvalidArgument: names the file and the line at fault.
    """
    with source.lines(read) as lines:
        reader = csv.reader(lines)
        seen: set[str] = set()
        try:
            for cells in reader:
                if cells and cells[0].strip():
                    yield from _table(source, reader, [cell.strip() for cell in cells], seen)
        except csv.Error as error:
            raise source.wrong(reader.line_num, f"not CSV: {error}") from None
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
            raise source.wrong(reader.line_num + 1, "the file cannot be read any further") from None


def tables(source: Source, read: BytesRead) -> dict[str, list[Row]]:
    """Reads all tables of a small file.

    Raises:
        InvalidArgument: names the file and the line at fault.
    """
    found: dict[str, list[Row]] = {}
    for row in rows(source, read):
        found.setdefault(row.table, []).append(row)
    return found


def _table(source: Source, reader: Iterator[list[str]], title: list[str], seen: set[str]) -> Iterator[Row]:
    name, start = title[0], reader.line_num  # type: ignore[attr-defined]
    if name in seen:
        raise source.wrong(start, f"table {name[:40]!r} stands there twice")
    seen.add(name)
    wanted_rows, wanted_columns = (_count(source, start, title, place) for place in (1, 2))
    header = _header(source, start, [cell.strip() for cell in next(reader, [])])
    if wanted_columns not in {None, len(header)}:
        raise source.wrong(start, f"table {name[:40]!r} has {len(header)} columns, not {wanted_columns}")
    count = 0
    width = len(header)
    for cells in reader:
        if not cells or not cells[0].strip():
            break
        line = reader.line_num  # type: ignore[attr-defined]
        count += 1
        # A short row is padded, as in JEMSS: what is missing is found when it is read as a number.
        cells.extend([""] * (width - len(cells)))
        yield Row(name, line, dict(zip(header, cells, strict=False)), source)
    if wanted_rows not in {None, count}:
        raise source.wrong(start, f"table {name[:40]!r} has {count} rows, not {wanted_rows}")


def _count(source: Source, line: int, title: list[str], place: int) -> int | None:
    if len(title) <= place or not title[place]:
        return None
    try:
        return int(float(title[place]))
    except (ValueError, OverflowError):
        raise source.wrong(line, f"the number of rows or columns must be a number, not {title[place][:40]!r}") from None


def _header(source: Source, line: int, cells: list[str]) -> list[str]:
    width = cells.index("") if "" in cells else len(cells)
    header = cells[:width]
    if not 1 <= width <= _MAX_COLUMNS:
        raise source.wrong(line + 1, f"a table's header has 1 to {_MAX_COLUMNS} columns, not {width}")
    if len(set(header)) != width:
        raise source.wrong(line + 1, "a column stands there twice")
    return header
