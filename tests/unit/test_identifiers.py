"""Decision ids: valid UUIDs of version 7 that rise, however they are made."""

from __future__ import annotations

import itertools
import uuid
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from services.runtime.identifiers import is_id, uuid7_source

STEPS = st.lists(st.tuples(st.integers(-3, 3), st.sampled_from((1, 1, 64, 1000, 5000))), min_size=1, max_size=8)


@given(STEPS, st.integers(0, 2**32))
def test_ids_rise_whatever_the_clock_does(steps: list[tuple[int, int]], seed: int) -> None:
    """Alone and by the thousand, with a clock that stands still or goes back: rising, and in the clock's time."""
    now = 1_790_000_000_000
    made: list[str] = []
    source = uuid7_source(lambda: now, Random(seed).getrandbits)
    for step, count in steps:
        now += step
        made += source.many(count) if count > 1 else [source()]
    assert len(made) == sum(count for _, count in steps)
    assert all(before < after for before, after in itertools.pairwise(made))
    for text in made[:: max(1, len(made) // 50)]:
        assert is_id(text)
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, text)
        assert abs((parsed.int >> 80) - 1_790_000_000_000) < 60


def test_none_are_none() -> None:
    """Asking for no id takes nothing."""
    assert uuid7_source(lambda: 1, Random(1).getrandbits).many(0) == []
