"""The short form of the chaos suite: a few cases with real processes and signals; `make chaos` runs all of them."""

from __future__ import annotations

import pytest

from tests.chaos.case import Case, Options
from tests.chaos.suite import CASES

OPTIONS = Options(seed=20_261_121, calls=300, kills=2, messages=2_000)


@pytest.mark.parametrize("case", [case for case in CASES if case.short], ids=lambda case: case.name)
async def test_a_promise_is_kept_under_fault(case: Case) -> None:
    """No caller loses its answer, the ledger no record; lateness is judged by `make chaos`, not on a busy machine."""
    result = await case.run(OPTIONS)
    if result.skipped:
        pytest.skip(result.skipped)
    assert (result.errors, result.lost, result.double) == (0, 0, 0), result.notes
    assert result.calls > 0
    assert [line for line in result.broken if "late" not in line] == [], result.notes
