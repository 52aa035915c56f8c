"""What the conditions of targeting rules see of a call: its validated row, its tenant, and its attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import assert_never

from bentos.schema import Category, Flag, Number, Schema
from services.runtime.targeting import Row


def row_of(schema: Schema, vector: Sequence[float], tenant: str, attributes: Mapping[str, str]) -> Row:
    """Gives what conditions see: features that are not missing, numbers rounded to float32 as everywhere.

    Args:
        schema: The family's schema.
        vector: The validated row, one number a feature, NaN for a missing one.
        tenant: Tenant, from the credential.
        attributes: The entries that the family's conditions look at; see `router.strategies.attributes`.
    """
    numbers: dict[str, float] = {}
    categories: dict[str, str] = {}
    flags: dict[str, bool] = {}
    for feature, value in zip(schema.features, vector, strict=True):
        if math.isnan(value):
            continue
        match feature:
            case Number():
                numbers[feature.name] = value
            case Category():
                categories[feature.name] = feature.values[int(value)]
            case Flag():
                flags[feature.name] = value != 0.0
            case _ as never:
                assert_never(never)
    return Row(tenant, attributes, numbers, categories, flags)


class Looking:
    """Gives what conditions see of one call; made when the first of them looks."""

    __slots__ = ("_attributes", "_row", "_schema", "_tenant", "_vector")

    def __init__(self, schema: Schema, vector: Sequence[float], tenant: str, attributes: Mapping[str, str]) -> None:
        self._schema = schema
        self._vector = vector
        self._tenant = tenant
        self._attributes = attributes
        self._row: Row | None = None

    def __call__(self) -> Row:
        """Gives it."""
        if self._row is None:
            self._row = row_of(self._schema, self._vector, self._tenant, self._attributes)
        return self._row
