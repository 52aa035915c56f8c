"""The estimate of a run's duration."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.model_server.pace import Pace


def test_nothing_is_expected_of_an_unknown_model() -> None:
    """So the first run is inline."""
    assert Pace().estimate(1000) == 0.0


def test_larger_sizes_are_scaled_up_and_smaller_ones_are_not_known_from_them() -> None:
    """Twice the rows may take twice the time; half the rows may be all fixed cost."""
    pace = Pace()
    pace.learn(4, 0.001)
    assert pace.estimate(8) == 0.002
    assert pace.estimate(1) == 0.0


@given(st.lists(st.floats(1e-6, 1.0), min_size=1), st.integers(1, 1000))
def test_the_estimate_stays_within_what_was_seen(seconds: list[float], rows: int) -> None:
    """It is a mean."""
    pace = Pace()
    for value in seconds:
        pace.learn(rows, value)
    assert min(seconds) * (1 - 1e-9) <= pace.estimate(rows) <= max(seconds) * (1 + 1e-9)


def test_one_spike_does_not_decide_and_a_change_is_learned() -> None:
    """About twenty runs make a new mean."""
    pace = Pace()
    pace.learn(1, 0.0001)
    pace.learn(1, 0.01)
    assert pace.estimate(1) < 0.002
    for _ in range(30):
        pace.learn(1, 0.01)
    assert pace.estimate(1) > 0.009
