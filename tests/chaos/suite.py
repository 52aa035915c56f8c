"""All cases, in the order in which they run."""

from __future__ import annotations

from tests.chaos import durability, kills, single_faults

CASES = [*single_faults.CASES, *durability.CASES, *kills.CASES]
