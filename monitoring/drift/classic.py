"""ADWIN and Page-Hinkley on residuals, from river: quick to react, without a bound on false alarms over a run.

They are offered beside `ConceptMonitor` for what that one does not do: they start without a reference and say when the
change began. ADWIN (Bifet and Gavaldà 2007) bounds false alarms per look, not over all looks; Page-Hinkley (Page 1954)
bounds nothing. So they locate and confirm; they should not wake anybody alone. river costs 79 MB and is loaded
when the first detector is made.
"""

from __future__ import annotations

import importlib
from enum import Enum
from typing import Any, Final, assert_never

import numpy as np
from numpy.typing import NDArray

from monitoring.drift import state
from services.runtime.errors import InvalidArgument

KEPT: Final = 4_096
"""Newest residuals that are kept; a restored detector has seen these only."""


class Classic(Enum):
    """Which detector."""

    ADWIN = "adwin"
    PAGE_HINKLEY = "page_hinkley"


class ClassicDetector:
    """Watches residuals (|outcome - prediction|, or errors as 0 and 1) for a change of their mean."""

    def __init__(self, kind: Classic) -> None:
        self.kind = kind
        self.decisions = 0
        self.changes = 0
        self.last_change: int | None = None
        """Decision number at which the last change was noticed."""
        self._kept: NDArray[np.float64] = np.empty(0)
        self._detector = _made(kind)

    def update(self, residuals: NDArray[np.floating]) -> int:
        """Takes residuals [n] in their order; gives how many changes they brought.

        Raises:
            InvalidArgument: a residual is not finite.
        """
        if residuals.ndim != 1 or not np.isfinite(residuals).all():
            raise InvalidArgument("residuals", "residuals are finite numbers, one a decision")
        before = self.changes
        for value in residuals.tolist():
            self._detector.update(value)
            self.decisions += 1
            if self._detector.drift_detected:
                self.changes += 1
                self.last_change = self.decisions
        self._kept = np.concatenate((self._kept, residuals.astype(np.float64)))[-KEPT:]
        return self.changes - before

    def to_bytes(self) -> bytes:
        """Gives the newest residuals since the last change and the counts."""
        since = self.decisions if self.last_change is None else self.decisions - self.last_change
        fields = {
            "kind": self.kind.value,
            "counts": [self.decisions, self.changes],
            "last_change": self.last_change,
        }
        kept = self._kept[max(0, len(self._kept) - since) :]
        return state.pack("classic", fields, {"kept": kept})

    @staticmethod
    def from_bytes(data: bytes) -> ClassicDetector:
        """Restores a detector by showing it the residuals that were kept.

        Raises:
            InvalidArgument: the bytes are not such a state.
        """
        fields, arrays = state.unpack("classic", data)
        with state.checked("classic"):
            detector = ClassicDetector(Classic(fields["kind"]))
            detector.update(arrays["kept"])
            detector.decisions, detector.changes = fields["counts"]
            detector.last_change = fields["last_change"]
        return detector


def _made(kind: Classic) -> Any:
    # By name, because river marks itself as typed but leaves these without annotations.
    drift: Any = importlib.import_module("river.drift")

    match kind:
        case Classic.ADWIN:
            return drift.ADWIN()
        case Classic.PAGE_HINKLEY:
            return drift.PageHinkley()
        case _ as never:
            assert_never(never)
