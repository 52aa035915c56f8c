"""Layers: which of the experiments that share one takes a unit, found with one hash and one search."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from router.strategies.buckets import LAYER, bucket
from router.strategies.hashing import salt_key
from services.runtime.experiment import Layer, LayerSlice

_NOBODY: Final = -1


class Subject:
    """What is dealt into buckets: one unit, or a decision without one. Remembers the buckets that were asked for."""

    __slots__ = ("_buckets", "_decision_id", "_tenant", "_unit_id")

    def __init__(self, tenant: str, unit_id: str, decision_id: str) -> None:
        self._tenant = tenant
        self._unit_id = unit_id
        self._decision_id = decision_id
        self._buckets: dict[bytes, int] = {}

    def bucket(self, key: bytes) -> int:
        """Gives the subject's bucket, 0 to 9 999, in the layer with that key."""
        found = self._buckets.get(key)
        if found is None:
            found = bucket(key, LAYER, self._tenant, self._unit_id, self._decision_id)
            self._buckets[key] = found
        return found


@dataclass(frozen=True, slots=True)
class Gate:
    """A slice of a layer."""

    key: bytes
    start: int
    end: int

    def holds(self, subject: Subject) -> bool:
        """Tells whether the subject's bucket is in the slice."""
        return self.start <= subject.bucket(self.key) < self.end


def gates(layer_slice: LayerSlice | None, layers: Mapping[str, Layer]) -> tuple[Gate, ...]:
    """Gives the slices that a unit must be in, the innermost first: its own and those that its layers are within."""
    found: list[Gate] = []
    while layer_slice is not None:
        layer = layers[layer_slice.layer]
        found.append(Gate(salt_key(layer.salt), layer_slice.start, layer_slice.end))
        layer_slice = layer.within
    return tuple(found)


@dataclass(frozen=True, slots=True)
class SlicedLayer:
    """The slices of one layer: they do not overlap, so that a bucket belongs to one of them at most."""

    key: bytes
    within: tuple[Gate, ...]
    starts: tuple[int, ...]
    """First bucket of each stretch, rising from 0."""
    owners: tuple[int, ...]
    """Whose stretch it is; below 0 for nobody's."""

    @classmethod
    def of(cls, layer: Layer, layers: Mapping[str, Layer], slices: Sequence[tuple[LayerSlice, int]]) -> SlicedLayer:
        """Prepares a layer with the slices of its owners, which are numbers of 0 and above."""
        starts, owners, end = [], [], 0
        for part, owner in sorted(slices, key=lambda entry: entry[0].start):
            if part.start > end:
                starts.append(end)
                owners.append(_NOBODY)
            starts.append(part.start)
            owners.append(owner)
            end = part.end
        starts.append(end)
        owners.append(_NOBODY)
        return cls(salt_key(layer.salt), gates(layer.within, layers), tuple(starts), tuple(owners))

    def owner(self, subject: Subject) -> int:
        """Gives the owner of the slice that the subject is in; below 0 when it is in none."""
        found = self.owners[bisect_right(self.starts, subject.bucket(self.key)) - 1]
        if found >= 0 and self.within and not all(gate.holds(subject) for gate in self.within):
            return _NOBODY
        return found
