"""Durations as JEMSS configurations write them."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dispatch.distributions import Duration, Shape, parse_call, parse_duration, parse_list, parse_number


@pytest.mark.parametrize(
    ("text", "mean_min"),
    [
        ("Exponential(12/60/24)", 12.0),
        ("Normal(50/60/60/24, 0)", 50 / 60),
        ("Weibull(1, 18/60/24)", 18.0),
        ("Uniform(1/60/24, 3/60/24)", 2.0),
        ("Gamma(2, 5/60/24)", 10.0),
        ("Dirac(1/24)", 60.0),
        ("LogNormal(0, 0)", 1440.0),
        ("2/60/24", 2.0),
        ("-(-(1 + 2) * 2 - 4) / 1440", 10.0),
    ],
)
def test_an_expression_gives_a_duration_with_its_mean(text: str, mean_min: float) -> None:
    """Days in the text become minutes."""
    assert parse_duration(text, minutes_per_unit=1440.0).mean == pytest.approx(mean_min)


@pytest.mark.parametrize("shape", list(Shape))
def test_samples_have_the_mean_that_is_stated(shape: Shape) -> None:
    """The mean of 20 000 draws lies within five standard errors of the mean."""
    duration = Duration(shape, 2.0, 3.0 if shape is Shape.UNIFORM else 0.5)
    rng = np.random.default_rng(1)
    draws = np.array([duration.sample(rng) for _ in range(20_000)])
    assert abs(draws.mean() - duration.mean) <= 5 * draws.std() / np.sqrt(len(draws)) + 1e-12


def test_a_truncated_duration_stays_inside_its_bounds() -> None:
    """Draws outside are drawn again."""
    duration = parse_duration("truncated(Exponential(12/60/24), 2/60/24, 30/60/24)", minutes_per_unit=1440.0)
    rng = np.random.default_rng(2)
    draws = [duration.sample(rng) for _ in range(2_000)]
    assert min(draws) >= 2.0
    assert max(draws) <= 30.0
    assert len(set(draws)) > 1_900


def test_bounds_that_are_never_met_end_in_the_nearer_one() -> None:
    """A duration cannot make the simulation hang."""
    assert Duration(Shape.CONSTANT, 1.0, low=5.0, high=6.0).sample(np.random.default_rng(0)) == 5.0


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "Exponential",
        "Exponential()",
        "Exponential(1, 2)",
        "Exponential(-1)",
        "Exponential(1/0)",
        "Exponential(2**9999)",
        "Exponential(x)",
        "Exponential(True)",
        "Exponential(mean=1)",
        "Cauchy(1, 2)",
        "Uniform(2, 1)",
        "Normal(1, -1)",
        "truncated(Exponential(1), 3, 2)",
        "1e999",
        "-1",
        "",
        "(" * 300,
        "1+" * 400 + "1",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Nothing of a configuration is ever executed, and nothing in it but a ValueError comes out."""
    with pytest.raises(ValueError, match=r".+"):
        parse_duration(text, minutes_per_unit=1440.0)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever stands in a file ends in a value or in a ValueError."""
    for read in (parse_number, parse_list, lambda t: parse_call(t, "Categorical")):
        with contextlib.suppress(ValueError):
            read(text)


def test_lists_may_be_written_the_julian_way() -> None:
    """Semicolons separate as commas do."""
    assert parse_list("[1; 2; 3]") == (1.0, 2.0, 3.0)
    assert parse_call("Categorical([0.57, 0.245, 0.185])", "Categorical") == (0.57, 0.245, 0.185)
    assert parse_call("Bernoulli(0.8)", "Bernoulli") == (0.8,)
