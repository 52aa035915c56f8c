"""Round-robin: every cycle is exact, and no window strays further than the published bound."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.strategies import Snapshot, assign, compile_experiment
from router.strategies.rotation import smooth_cycle
from services.runtime.experiment import MAX_ROTATION, Experiment

WEIGHTS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def rotation(**weights: float) -> Snapshot:
    """A compiled rotation."""
    form: dict[str, Any] = {
        "name": "dispatch",
        "family": "dispatch",
        "salt": "s",
        "champion": next(iter(weights)),
        "strategy": {"kind": "round_robin"},
    }
    form["arms"] = {name: {"variant": name, "weight": weight} for name, weight in weights.items()}
    return compile_experiment(Experiment.model_validate(form))


def arms(snapshot: Snapshot, positions: range) -> list[str]:
    """The arms at these positions."""
    return [
        assign(snapshot, unit_id="u", decision_id="d", tenant="t", region="", at_unix_us=0, sequence=position).arm
        for position in positions
    ]


def test_known_rotation_of_five_one_one() -> None:
    """The textbook case: the heavy arm is spread, not bunched, and ties go to the arm that is written first."""
    assert "".join(arms(rotation(a=5, b=1, c=1), range(14))) == "aabacaa" * 2
    assert "".join(arms(rotation(b=1, a=1), range(4))) == "baba"


def test_weights_are_reduced_and_zero_takes_no_turn() -> None:
    """Half a percent and a percent make a cycle of three; an arm of weight 0 never comes."""
    assert Counter(arms(rotation(a=0.5, zero=0, b=1), range(3))) == {"a": 1, "b": 2}


@settings(deadline=None)
@given(weights=WEIGHTS)
def test_every_cycle_is_exact(weights: list[int]) -> None:
    """Within one cycle each arm comes exactly as often as its weight says."""
    assert Counter(smooth_cycle(weights)) == dict(enumerate(weights))


@settings(max_examples=150, deadline=None)
@given(weights=WEIGHTS)
@example(weights=[1] * 32)
@example(weights=[300, 1, 1, 1, 1, 1, 1, 1])
@example(weights=[1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31])
def test_counts_stay_within_the_published_bounds(weights: list[int]) -> None:
    """Ahead by at most 1 - 1/N, behind by at most 1/2 + … + 1/N; any window within the sum of the two."""
    cycle, total, number = smooth_cycle(weights), sum(weights), len(weights)
    behind = sum((Fraction(1, k) for k in range(2, number + 1)), Fraction(0))
    ahead = 1 - Fraction(1, number)
    for arm, weight in enumerate(weights):
        counts = accumulate(chosen == arm for chosen in cycle)
        leads = [count - Fraction(weight * step, total) for step, count in enumerate(counts, start=1)]
        assert max(leads) <= ahead
        assert min(leads) >= -behind
        # Every window is the difference of two prefixes, and the cycle ends where it began.
        assert max(leads) - min(leads) <= ahead + behind


@settings(deadline=None)
@given(first=st.integers(1, 60), second=st.integers(1, 60))
def test_two_arms_are_never_off_by_more_than_one(first: int, second: int) -> None:
    """With two arms any window of n holds n·share of each, give or take one."""
    snapshot = rotation(a=first, b=second)
    sequence = arms(snapshot, range(150))
    for begin in range(0, 150, 7):
        for end in range(begin + 1, 151, 11):
            count = sequence[begin:end].count("a")
            assert abs(count - Fraction(first * (end - begin), first + second)) <= 1


@pytest.mark.parametrize("position", [0, 5, 6, 2**64 - 1])
def test_position_counts_modulo_the_cycle(position: int) -> None:
    """Far positions cost and give the same as near ones."""
    snapshot = rotation(a=3, b=2, c=1)
    assert arms(snapshot, range(position, position + 1)) == arms(snapshot, range(position % 6, position % 6 + 1))


def test_longest_rotation_is_compiled() -> None:
    """Percentages with two decimals that add up to 100 fit."""
    snapshot = rotation(a=33.33, b=66.66, c=0.01)
    assert Counter(arms(snapshot, range(MAX_ROTATION))) == {"a": 3333, "b": 6666, "c": 1}
