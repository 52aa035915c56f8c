"""All cases, in the order in which they run."""

from __future__ import annotations

from tests.chaos import durability, hostile, kills, single_faults, supervised, swaps

CASES = [
    *single_faults.CASES,
    *durability.CASES,
    *swaps.CASES,
    *hostile.CASES,
    *supervised.CASES,
    *kills.CASES,
]
