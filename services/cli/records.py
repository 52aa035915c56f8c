"""Past decisions for training: from a family's own reader, or from the simulator's history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.runtime.errors import InvalidArgument, Unimplemented

if TYPE_CHECKING:
    from bentos.family import Family, Record
    from services.cli.progress import Step
    from services.dispatch.city import City

SIMULATED_FAMILY: Final = "dispatch"
_STEP_ROWS: Final = 200


class Past(list["Record"]):
    """Past decisions, in order of time."""

    skipped: int = 0
    """Rows of their source that were of no use; training notes it in the manifest."""


def read_all(family: Family, path: Path, step: Step) -> Past:
    """Reads a whole data file; raises as `from_file` does."""
    reader = from_file(family, path, step)
    past = Past(reader)
    past.skipped = getattr(reader, "skipped", 0)
    return past


def from_file(family: Family, path: Path, step: Step) -> Iterator[Record]:
    """Gives the reader of a data file, which reads as it goes.

    Raises:
        Unimplemented: the family reads no files.
        InvalidArgument: the file is missing or wrong; names the line or column.
    """
    if family.read_records is None:
        raise Unimplemented("data", f"family {family.name!r} reads no data files")
    if not path.is_file():
        raise InvalidArgument("data", f"{path} is not a file: give --data the path of the data file")
    return family.read_records(path, step.update)


def city_of(folder: Path | None, seed: int, step: Step) -> City:
    """Gives the city of a JEMSS folder, or the built-in one that the seed makes.

    Raises:
        InvalidArgument: a file of the folder is missing or wrong.
    """
    if folder is None:
        from services.dispatch.synthetic import synthetic_city

        return synthetic_city(seed, progress=step.update)
    from services.dispatch.jemss import read_city

    if not folder.is_dir():
        raise InvalidArgument("city", f"{folder} is not a folder: give --city the folder of a JEMSS city")

    def progress(what: str, done: int, total: int) -> None:
        step.doing(what)
        step.update(done, total)

    return read_city(folder, crew_seed=seed, progress=progress)


def simulated(city: City, seed: int, calls: int, step: Step) -> Iterator[Record]:
    """Gives the simulator's history: one decision a call, taken by a plausible dispatcher."""
    from services.dispatch.history import history

    for count, record in enumerate(history(city, seed, calls), start=1):
        if count % _STEP_ROWS == 0 or count == calls:
            step.update(count, calls)
        yield record
