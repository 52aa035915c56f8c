"""What became of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

RECORDS: Final = ("decision", "outcome", "snapshot", "shadow_answer")
"""Kinds of records, as in turnout.v1.JournalRecord."""


@dataclass(slots=True)
class Appended:
    """What became of a batch."""

    decisions: int = 0
    joined: int = 0
    """New outcomes whose decision is known."""
    waiting: int = 0
    """New outcomes whose decision is not known yet."""
    snapshots: int = 0
    shadows: int = 0
    """New answers of shadows."""
    duplicates: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RECORDS, 0))
    repeated_aside: int = 0
    """Records that had been set aside before."""
    set_aside: int = 0

    @property
    def stored(self) -> int:
        """Records that were new."""
        return self.decisions + self.joined + self.waiting + self.snapshots + self.shadows

    @property
    def repeated(self) -> int:
        """Records that were already there."""
        return sum(self.duplicates.values()) + self.repeated_aside
