"""Whose features are counted apart: family × served variant × schema, at most so many of each family."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, select

from bentos.schema import Schema
from monitoring.ledger.feature_statistics import FeatureStatistics, category_sizes
from monitoring.ledger.tables import FEATURE_SETS, to_signed
from services.runtime.database import bulk_insert

MAX_SETS: Final = 64
"""Feature sets of a family; the features of variants beyond are not counted."""


class FeatureSet(NamedTuple):
    """A row of `feature_sets`, without its number."""

    family: str
    variant: str
    schema_digest: int
    """With the bits of the unsigned digest."""
    features: str
    """JSON: a list of [name, number of codes or null]."""


class FeatureSets:
    """The feature sets of a ledger, in memory."""

    def __init__(self, rows: Sequence[tuple[int, FeatureSet]]) -> None:
        self._ids: dict[tuple[str, str, int], int] = {}
        self._sizes: dict[int, list[int | None]] = {}
        self._of_family: dict[str, int] = defaultdict(int)
        self._new: list[tuple[int, FeatureSet]] = []
        self.unknown = 0
        """Rows since the start whose schema is not the one of the family as it is now, or is not known."""
        for set_id, row in rows:
            self._keep(set_id, row)

    @classmethod
    def load(cls, connection: Connection) -> FeatureSets:
        """Reads the feature sets of a ledger."""
        return cls([(row[0], FeatureSet(*row[1:])) for row in connection.execute(select(FEATURE_SETS))])

    def id_of(self, family: str, variant: str, schema: Schema) -> int | None:
        """Gives the number of a set; None when the family has as many as it may."""
        digest = to_signed(schema.digest)
        known = self._ids.get((family, variant, digest))
        if known is not None or self._of_family[family] >= MAX_SETS:
            return known
        named = list(zip(schema.names, category_sizes(schema), strict=True))
        row = FeatureSet(family, variant, digest, json.dumps(named))
        known = len(self._ids) + 1
        self._keep(known, row)
        self._new.append((known, row))
        return known

    def sizes(self, set_id: int) -> list[int | None]:
        """Gives how many codes each feature has; None for a number."""
        return self._sizes[set_id]

    def empty(self, set_id: int) -> FeatureStatistics:
        """Gives the statistics of no rows."""
        return FeatureStatistics.of_sizes(self._sizes[set_id])

    def store(self, connection: Connection) -> None:
        """Writes the sets that are new."""
        bulk_insert(connection, FEATURE_SETS, [(set_id, *row) for set_id, row in self._new])
        self._new.clear()

    def _keep(self, set_id: int, row: FeatureSet) -> None:
        self._ids[row.family, row.variant, row.schema_digest] = set_id
        self._sizes[set_id] = [size for _, size in json.loads(row.features)]
        self._of_family[row.family] += 1
