"""What is known of the decisions of one cell in one window: a tally, and sketches of distributions.

A tally can be taken away from: a corrected outcome subtracts what the old one had added. The sketches hold decisions
only, and those are never corrected; of a decision that gave way to an earlier record of the same id its old value stays
in the sketches, and `Count.REPLACED` tells how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from datasketches import kll_doubles_sketch, kll_floats_sketch
from numpy.typing import NDArray

from monitoring.ledger.exact import pack, unpack
from monitoring.ledger.tally import BINS, COUNTS, Calibration, Decisions, OutcomeSum, Sum, Tally

SKETCH_K: Final = 200
"""Size of the sketches: a rank is wrong by less than 1.65 % (0.0165 at 99 % confidence, datasketches' own figure)."""
_CELLS: Final = len(Calibration) * BINS


@dataclass(slots=True)
class Statistics:
    """Statistics of one cell in one window."""

    tally: Tally = field(default_factory=Tally)
    latency: Any = field(default_factory=lambda: kll_floats_sketch(SKETCH_K))
    """KLL sketch of the time to answer, in microseconds."""
    value: Any = field(default_factory=lambda: kll_doubles_sketch(SKETCH_K))
    confidence: Any = field(default_factory=lambda: kll_floats_sketch(SKETCH_K))

    def observe(self, decisions: Decisions) -> None:
        """Adds decisions to the sketches; the tally is the caller's."""
        self.latency.update(decisions.latencies.astype(np.float32))
        self.value.update(decisions.values)
        self.confidence.update(decisions.confidences.astype(np.float32))

    def merge(self, other: Statistics) -> None:
        """Adds the statistics of other decisions."""
        self.tally.add(other.tally)
        self.latency.merge(other.latency)
        self.value.merge(other.value)
        self.confidence.merge(other.confidence)

    def as_columns(self) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes]:
        """Gives the columns of a row: counts, outcome sums, calibration, sums, and the three sketches."""
        return (
            *self.outcome_columns(),
            pack(self.tally.sums),
            self.latency.serialize(),
            self.value.serialize(),
            self.confidence.serialize(),
        )

    def outcome_columns(self) -> tuple[bytes, bytes, bytes]:
        """Gives the columns that outcomes change: counts, outcome sums, calibration."""
        tally = self.tally
        counts, table = tally.counts.astype("<i8").tobytes(), tally.calibration
        outcome_sums = pack(tally.outcome_sums) if tally.has_outcomes else b""
        return counts, outcome_sums, table.astype("<i8").tobytes() if table.any() else b""

    @classmethod
    def from_columns(  # noqa: PLR0917 - the columns of a row, in their order
        cls,
        counts: bytes,
        outcome_sums: bytes,
        calibration: bytes,
        sums: bytes,
        latency: bytes,
        value: bytes,
        confidence: bytes,
    ) -> Statistics:
        """Reads a row; the inverse of `as_columns`. A sketch that was not read is empty.

        Rows of before something was counted are shorter; the rest of them is zeros.
        """
        table = _padded(calibration, _CELLS)
        tally = Tally(
            _padded(counts, COUNTS),
            table.reshape(len(Calibration), BINS),
            unpack(sums, len(Sum)),
            unpack(outcome_sums, len(OutcomeSum)),
        )
        return cls(
            tally,
            kll_floats_sketch.deserialize(latency) if latency else kll_floats_sketch(SKETCH_K),
            kll_doubles_sketch.deserialize(value) if value else kll_doubles_sketch(SKETCH_K),
            kll_floats_sketch.deserialize(confidence) if confidence else kll_floats_sketch(SKETCH_K),
        )


def _padded(data: bytes, size: int) -> NDArray[np.int64]:
    stored = np.frombuffer(data, "<i8")
    whole = np.zeros(size, np.int64)
    whole[: stored.size] = stored
    return whole
