"""Reads how long a JEMSS crew takes to leave its station."""

from __future__ import annotations

from services.dispatch.distributions import Duration, Shape, parse_duration
from services.dispatch.jemss_roads import MINUTES_PER_DAY, only
from services.dispatch.jemss_tables import BytesRead, Source, tables


def read_mobilisation(source: Source, read: BytesRead) -> Duration:
    """Reads the table `mobilisationDelay`; a delay that is switched off is 0.

    Raises:
        InvalidArgument: names the file and line.
    """
    row = only(tables(source, read), "mobilisationDelay", source)[0]
    used = row.cells.get("use", "true").lower()
    if used in {"false", "0"}:
        return Duration(Shape.CONSTANT, 0.0)
    try:
        return parse_duration(row.text("distribution"), minutes_per_unit=MINUTES_PER_DAY)
    except ValueError as error:
        raise source.wrong(row.line, f"distribution: {error}") from None
