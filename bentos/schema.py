"""A family's features: what a row may hold, and how it becomes the dense vector that models and rules see.

A row arrives as three mappings (numbers, categories, flags). `Schema.encode` checks it against the declared
policies and gives one float per feature, in the schema's order: a number as it is, a category as its index in
`Category.values`, a flag as 0.0 or 1.0, and NaN for what is not known. Values are rounded to float32 at once, so
that the rules, the models, the ledger and a replay all see the very same numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, assert_never

from services.runtime.errors import InvalidArgument

NAN: Final = math.nan
MAX_FEATURES: Final = 512


class Missing(Enum):
    """What happens when a feature is left out."""

    KEEP = "keep"
    """It stays missing: NaN."""
    REJECT = "reject"
    """The row is refused."""


class OutOfRange(Enum):
    """What happens when a number lies outside its bounds."""

    REJECT = "reject"
    """The row is refused."""
    CLIP = "clip"
    """The nearest bound is taken."""


class Unknown(Enum):
    """What happens when a category is none of the declared values."""

    REJECT = "reject"
    """The row is refused."""
    MISSING = "missing"
    """It counts as missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A numeric feature, in `unit`, between `low` and `high` (both included)."""

    name: str
    unit: str
    low: float
    high: float
    description: str
    missing: Missing = Missing.KEEP
    out_of_range: OutOfRange = OutOfRange.REJECT


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A feature that takes one of `values`; its place in the vector holds the index."""

    name: str
    values: tuple[str, ...]
    description: str
    missing: Missing = Missing.KEEP
    unknown: Unknown = Unknown.REJECT


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A feature that is true or false."""

    name: str
    description: str
    missing: Missing = Missing.KEEP


Feature = Number | Category | Flag


@dataclass(frozen=True, slots=True)
class Schema:
    """The features of a family, in the order of the vector.

    Raises:
        ValueError: the declaration itself is wrong (a name twice, empty bounds, no values, over 512 features).
    """

    features: tuple[Feature, ...]
    names: tuple[str, ...] = field(init=False)
    digest: int = field(init=False)
    """First 8 bytes, big-endian, of the SHA-256 of the canonical form of the features."""
    _numbers: dict[str, tuple[int, float, float, OutOfRange]] = field(init=False, repr=False, compare=False)
    _categories: dict[str, tuple[int, dict[str, float], Unknown]] = field(init=False, repr=False, compare=False)
    _flags: dict[str, int] = field(init=False, repr=False, compare=False)
    _required: tuple[tuple[int, str], ...] = field(init=False, repr=False, compare=False)
    _blank: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _struct: struct.Struct = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Derives the look-up tables that make `encode` fast."""
        _check(self.features)
        derive = object.__setattr__
        derive(self, "names", tuple(feature.name for feature in self.features))
        derive(self, "digest", int.from_bytes(hashlib.sha256(_canonical(self.features)).digest()[:8], "big"))
        numbers, categories, flags = {}, {}, {}
        for index, feature in enumerate(self.features):
            match feature:
                case Number():
                    numbers[feature.name] = (index, feature.low, feature.high, feature.out_of_range)
                case Category():
                    codes = {value: float(code) for code, value in enumerate(feature.values)}
                    categories[feature.name] = (index, codes, feature.unknown)
                case Flag():
                    flags[feature.name] = index
                case _ as never:
                    assert_never(never)
        derive(self, "_numbers", numbers)
        derive(self, "_categories", categories)
        derive(self, "_flags", flags)
        required = ((i, f.name) for i, f in enumerate(self.features) if f.missing is Missing.REJECT)
        derive(self, "_required", tuple(required))
        derive(self, "_blank", (NAN,) * len(self.features))
        derive(self, "_struct", struct.Struct(f"<{len(self.features)}f"))

    def __len__(self) -> int:
        return len(self.features)

    def encode(
        self, numbers: Mapping[str, float], categories: Mapping[str, str], flags: Mapping[str, bool]
    ) -> tuple[bytes, tuple[float, ...]]:
        """Checks a row and gives its vector, both packed (float32, little-endian) and as floats.

        Raises:
            InvalidArgument: names the field at fault and the limit that it broke.
        """
        vector = list(self._blank)
        table = self._numbers
        # Indexing is faster than items() on the maps of protobuf messages.
        for name in numbers:
            value = numbers[name]
            found = table.get(name)
            if found is None:
                raise self._unknown_feature("numbers", name)
            index, low, high, policy = found
            # NaN fails this comparison as well.
            vector[index] = value if low <= value <= high else self._outside(name, value, low, high, policy)
        for name in categories:
            text = categories[name]
            entry = self._categories.get(name)
            if entry is None:
                raise self._unknown_feature("categories", name)
            code = entry[1].get(text)
            vector[entry[0]] = code if code is not None else self._unknown_value(name, text, entry[1], entry[2])
        for name in flags:
            flag = flags[name]
            place = self._flags.get(name)
            if place is None:
                raise self._unknown_feature("flags", name)
            vector[place] = 1.0 if flag else 0.0
        for index, name in self._required:
            if math.isnan(vector[index]):
                raise InvalidArgument(self._field(name), f"feature {name!r} is required")
        packed = self._struct.pack(*vector)
        return packed, self._struct.unpack(packed)

    def decode(self, packed: bytes) -> tuple[float, ...]:
        """Unpacks one row; the inverse of the packing of `encode`."""
        return self._struct.unpack(packed)

    @property
    def row_bytes(self) -> int:
        """Size of one packed row, in bytes."""
        return self._struct.size

    def named(self, vector: Sequence[float]) -> dict[str, float | str | bool]:
        """Gives a vector's known values by feature name, categories as text and flags as booleans."""
        row: dict[str, float | str | bool] = {}
        for feature, value in zip(self.features, vector, strict=True):
            if math.isnan(value):
                continue
            match feature:
                case Number():
                    row[feature.name] = value
                case Category():
                    row[feature.name] = feature.values[int(value)]
                case Flag():
                    row[feature.name] = value != 0.0
                case _ as never:
                    assert_never(never)
        return row

    def split(self, row: Mapping[str, float | str | bool]) -> tuple[dict[str, float], dict[str, str], dict[str, bool]]:
        """Sorts a plain row into the three mappings of `encode` by each value's Python type.

        Raises:
            InvalidArgument: a value is neither a number, a text nor a boolean, or does not fit its feature's kind.
        """
        numbers: dict[str, float] = {}
        categories: dict[str, str] = {}
        flags: dict[str, bool] = {}
        for name, value in row.items():
            if name in self._flags and isinstance(value, bool):
                flags[name] = value
            elif name in self._categories and isinstance(value, str):
                categories[name] = value
            elif name in self._numbers and isinstance(value, int | float) and not isinstance(value, bool):
                numbers[name] = float(value)
            elif name not in self.names:
                raise self._unknown_feature("features", name)
            else:
                kind = "a boolean" if name in self._flags else "a text" if name in self._categories else "a number"
                raise InvalidArgument(self._field(name), f"feature {name!r} must be {kind}, not {_kind(value)}")
        return numbers, categories, flags

    def _field(self, name: str) -> str:
        kind = "numbers" if name in self._numbers else "categories" if name in self._categories else "flags"
        return f"{kind}[{name}]"

    def _unknown_feature(self, kind: str, name: str) -> InvalidArgument:
        if name in self.names:
            return InvalidArgument(f"{kind}[{name}]", f"feature {name!r} belongs in {self._field(name).split('[')[0]}")
        return InvalidArgument(f"{kind}[{name[:64]}]", f"feature {name[:64]!r} is not in the schema")

    def _outside(self, name: str, value: float, low: float, high: float, policy: OutOfRange) -> float:
        where = f"numbers[{name}]"
        if not math.isfinite(value):
            raise InvalidArgument(where, f"feature {name!r} must be finite; leave it out when it is not known")
        match policy:
            case OutOfRange.REJECT:
                raise InvalidArgument(where, f"feature {name!r} must be from {low:g} to {high:g}, not {value:g}")
            case OutOfRange.CLIP:
                return min(max(value, low), high)
            case _ as never:
                assert_never(never)

    def _unknown_value(self, name: str, text: str, codes: Mapping[str, float], policy: Unknown) -> float:
        match policy:
            case Unknown.REJECT:
                allowed = ", ".join(codes)
                message = f"feature {name!r} must be one of {allowed}, not {text[:64]!r}"
                raise InvalidArgument(f"categories[{name}]", message)
            case Unknown.MISSING:
                return NAN
            case _ as never:
                assert_never(never)


def _kind(value: object) -> str:
    match value:
        case bool():
            return "a boolean"
        case str():
            return "a text"
        case int() | float():
            return "a number"
        case None:
            return "null"
        case _:
            return "a list or an object"


def _check(features: tuple[Feature, ...]) -> None:
    if not 1 <= len(features) <= MAX_FEATURES:
        raise ValueError(f"a schema has 1 to {MAX_FEATURES} features, not {len(features)}")
    names = [feature.name for feature in features]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"feature {name!r} is declared twice")
        if not name.isidentifier():
            raise ValueError(f"feature {name!r} must be an identifier")
    for feature in features:
        if isinstance(feature, Number) and not feature.low < feature.high:
            raise ValueError(f"feature {feature.name!r}: low must be under high")
        if isinstance(feature, Category) and (not feature.values or len(set(feature.values)) != len(feature.values)):
            raise ValueError(f"feature {feature.name!r}: values must be given, each once")


def _canonical(features: tuple[Feature, ...]) -> bytes:
    form = []
    for feature in features:
        match feature:
            case Number():
                form.append(["number", feature.name, feature.unit, feature.low, feature.high])
            case Category():
                form.append(["category", feature.name, *feature.values])
            case Flag():
                form.append(["flag", feature.name])
            case _ as never:
                assert_never(never)
    return json.dumps(form, separators=(",", ":"), ensure_ascii=True).encode()
