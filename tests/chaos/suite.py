"""All cases, in the order in which they run."""

from __future__ import annotations

from tests.chaos import single_faults

CASES = [*single_faults.CASES]
