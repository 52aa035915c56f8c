"""Past decisions as arrays, and their split by time: the past trains, the present calibrates, the newest part tests."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bentos.family import Family, Record, TargetKind
from services.runtime.errors import FailedPrecondition, InvalidArgument

Matrix = NDArray[np.float32]
"""Rows × features, NaN for missing."""
Vector = NDArray[np.float64]

FEWEST_ROWS: Final = 20
MOST_ROWS: Final = 5_000_000
TRAIN_SHARE: Final = 0.7
CALIBRATION_SHARE: Final = 0.15
_AT_AND_OUTCOME: Final = struct.Struct("<dd")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows in order of time: encoded raw features [n, f], outcomes [n], times [n] in Unix seconds."""

    features: Matrix
    outcomes: Vector
    at: Vector

    def __len__(self) -> int:
        return len(self.outcomes)

    def part(self, start: int, stop: int) -> Dataset:
        """Gives the rows from `start` to before `stop`."""
        return Dataset(self.features[start:stop], self.outcomes[start:stop], self.at[start:stop])

    def fingerprint(self) -> str:
        """Gives the SHA-256 of all values, the same for the same rows in the same order."""
        digest = hashlib.sha256()
        for array in (self.features, self.outcomes, self.at):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Split:
    """A dataset cut twice in time: everything in `train` is older than everything in `calibration`, and so on."""

    train: Dataset
    calibration: Dataset
    test: Dataset


def encode(family: Family, records: Iterable[Record]) -> Dataset:
    """Encodes records with the family's schema and orders them by time.

    Raises:
        InvalidArgument: a record breaks the schema, has an outcome outside the target's range, or there are too many.
        FailedPrecondition: there are fewer than 20 records.
    """
    schema, target = family.schema, family.target
    rows, rest = bytearray(), bytearray()
    for count, record in enumerate(records):
        if count >= MOST_ROWS:
            raise InvalidArgument("records", f"training takes at most {MOST_ROWS} records; take a newer part of them")
        binary_fault = target.kind is TargetKind.BINARY and record.outcome not in (0.0, 1.0)
        if binary_fault or not target.low <= record.outcome <= target.high:
            allowed = "0 or 1" if target.kind is TargetKind.BINARY else f"from {target.low:g} to {target.high:g}"
            raise InvalidArgument(
                "outcome",
                f"the outcome of decision {record.decision_id[:64]!r} must be {allowed}, not {record.outcome:g}",
            )
        rows += schema.encode(*schema.split(record.features))[0]
        rest += _AT_AND_OUTCOME.pack(record.at, record.outcome)
    features = np.frombuffer(bytes(rows), dtype="<f4").reshape(-1, len(schema)).astype(np.float32)
    if len(features) < FEWEST_ROWS:
        raise FailedPrecondition(
            "records", f"training needs at least {FEWEST_ROWS} decisions with outcomes; there are {len(features)}"
        )
    times, outcomes = np.frombuffer(bytes(rest), dtype="<f8").reshape(-1, 2).T
    order = np.argsort(times, kind="stable")
    return Dataset(features[order], outcomes[order].astype(np.float64), times[order].astype(np.float64))


def split_by_time(data: Dataset, *, train: float = TRAIN_SHARE, calibration: float = CALIBRATION_SHARE) -> Split:
    """Cuts at the two shares, each cut moved back to where the time changes, so that no moment lies in two parts."""
    first = _boundary(data.at, round(len(data) * train))
    second = max(first, _boundary(data.at, round(len(data) * (train + calibration))))
    return Split(data.part(0, first), data.part(first, second), data.part(second, len(data)))


def _boundary(at: Vector, index: int) -> int:
    if not 0 < index < len(at):
        return index
    return int(np.searchsorted(at, at[index], side="left"))
