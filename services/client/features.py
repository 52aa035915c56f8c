"""From one plain mapping of features to the messages: the kind of a feature follows from its value's Python type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from math import isnan, nan
from numbers import Real
from typing import Final, NamedTuple, Protocol, SupportsFloat

from services.runtime.errors import InvalidArgument
from turnout.v1.prediction_pb2 import (
    FLAG_VALUE_FALSE,
    FLAG_VALUE_TRUE,
    FLAG_VALUE_UNSPECIFIED,
    CategoryColumn,
    PredictBatchRequest,
    PredictRequest,
)

FeatureValue = SupportsFloat | str | bool
Features = Mapping[str, FeatureValue]


class AskedRow(Protocol):
    """A row of a batch that brings its own ids; those that are empty take the batch's."""

    @property
    def decision_id(self) -> str:
        """The caller's id for this decision, or empty."""

    @property
    def unit_id(self) -> str:
        """What is assigned and stays assigned, or empty."""

    @property
    def region(self) -> str:
        """Region of the switchback block, or empty."""

    @property
    def features(self) -> Features:
        """What is known, by name."""


class Kinds(NamedTuple):
    """A row's features by kind."""

    numbers: dict[str, float]
    categories: dict[str, str]
    flags: dict[str, bool]


def by_kind(features: Mapping[str, object]) -> Kinds:
    """Sorts a row's features: a boolean is a flag, a text a category, any real number a number.

    Raises:
        InvalidArgument: a value is of another type, or a number is too large for a double; names the feature.
    """
    numbers: dict[str, float] = {}
    categories: dict[str, str] = {}
    flags: dict[str, bool] = {}
    for name, value in features.items():
        kind = type(value)
        if kind is float:
            numbers[name] = value  # type: ignore[assignment]  # mypy does not narrow by `type(x) is`
        elif kind is str:
            categories[name] = value  # type: ignore[assignment]  # as above
        elif kind is bool:
            flags[name] = value  # type: ignore[assignment]  # as above
        elif isinstance(value, str):
            categories[name] = str.__str__(value)
        elif isinstance(value, Real):
            numbers[name] = _number(name, value)
        else:
            shown = "null" if value is None else kind.__name__
            raise InvalidArgument(
                f"features[{str(name)[:64]}]",
                f"feature {str(name)[:64]!r} must be a number, a text or a boolean, not {shown}; "
                "leave it out when it is not known",
            )
    return Kinds(numbers, categories, flags)


class Row(NamedTuple):
    """One row as it is asked: its decision, what it is assigned by, and its features."""

    decision_id: str
    unit_id: str
    region: str
    kinds: Kinds


def request_of(family: str, row: Row) -> PredictRequest:
    """Makes the message of one call.

    Raises:
        InvalidArgument: a name or a text is not valid Unicode.
    """
    try:
        return PredictRequest(
            family=family,
            decision_id=row.decision_id,
            unit_id=row.unit_id,
            region=row.region,
            numbers=row.kinds.numbers,
            categories=row.kinds.categories,
            flags=row.kinds.flags,
        )
    except (TypeError, UnicodeError) as error:
        raise _not_text(error) from error


def batch_of(family: str, rows: Sequence[Row]) -> PredictBatchRequest:
    """Makes the message of a batch: one column for each feature that any of the rows has.

    Raises:
        InvalidArgument: a name or a text is not valid Unicode, or a number is NaN; names row and feature.
    """
    message = PredictBatchRequest()
    try:
        message.family = family
        message.rows = len(rows)
        message.decision_ids.extend([row.decision_id for row in rows])
        if any(row.unit_id for row in rows):
            message.unit_ids.extend([row.unit_id for row in rows])
        if any(row.region for row in rows):
            message.regions.extend([row.region for row in rows])
        for name in _names(row.kinds.numbers for row in rows):
            message.numbers[name].values.extend(_numbers(name, rows))
        for name in _names(row.kinds.categories for row in rows):
            _fill_categories(message.categories[name], [row.kinds.categories.get(name) for row in rows])
        for name in _names(row.kinds.flags for row in rows):
            message.flags[name].values.extend([_FLAGS[row.kinds.flags.get(name)] for row in rows])
    except (TypeError, UnicodeError) as error:
        raise _not_text(error) from error
    return message


_FLAGS: Final = {None: FLAG_VALUE_UNSPECIFIED, False: FLAG_VALUE_FALSE, True: FLAG_VALUE_TRUE}


def _names(kinds: Iterable[Mapping[str, object]]) -> Iterable[str]:
    """Gives the names that occur, each once, in their order."""
    return dict.fromkeys(chain.from_iterable(kinds))


def _numbers(name: str, rows: Sequence[Row]) -> list[float]:
    values = [row.kinds.numbers.get(name, nan) for row in rows]
    for place, value in enumerate(values):
        # In a column NaN means "not known"; a NaN that the caller gave is refused as it is in a single row.
        if isnan(value) and name in rows[place].kinds.numbers:
            sentence = f"row {place}: feature {name[:64]!r} must be finite; leave it out when it is not known"
            raise InvalidArgument(f"rows[{place}].numbers[{name[:64]}]", sentence)
    return values


def _fill_categories(column: CategoryColumn, texts: Sequence[str | None]) -> None:
    places: dict[str | None, int] = {None: 0}
    column.places.extend([places.setdefault(text, len(places)) for text in texts])
    column.values.extend([text for text in places if text is not None])


def _number(name: str, value: Real) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidArgument(f"numbers[{name}]", f"feature {name!r} is too large for a double") from error


def _not_text(error: Exception) -> InvalidArgument:
    kind = "valid Unicode" if isinstance(error, UnicodeError) else "texts"
    return InvalidArgument("", f"the family, the ids, the region and the names of features must be {kind}")
