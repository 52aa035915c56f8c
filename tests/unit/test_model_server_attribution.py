"""Shapley values: they add up exactly, they are the known ones where those are known, and work is bounded."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bentos.manifest import Manifest
from services.model_server.attribution import MAX_PAIRS, MAX_ROWS, Attribution, Attributor
from services.runtime.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument

MANIFEST = Manifest(
    family="f",
    variant="v",
    features=(),
    outputs=("y",),
    schema_digest=0,
    input_name="x",
    output_name="y",
    model_file="m",
    sha256="",
    background=(),
    metrics={},
    provenance={},
)


@dataclass
class Formula:
    """An engine of two outputs; the first is w·x + x0·x1, missing counting as 0."""

    weights: tuple[float, ...]
    product: float = 0.0
    rows_run: int = 0
    outputs: int = 2

    @property
    def features(self) -> int:
        return len(self.weights)

    def infer(self, packed: bytes | memoryview, rows: int) -> bytes:
        self.rows_run += rows
        x = np.nan_to_num(np.frombuffer(packed, "<f4").reshape(rows, self.features))
        first = x @ np.array(self.weights, "f4")
        if self.features > 1:
            first = first + self.product * x[:, 0] * x[:, 1]
        return np.stack([first, np.full(rows, 9.0)], axis=1).astype("<f4").tobytes()


def attribute(
    engine: Formula, background: list[list[float | None]], row: list[float], deadline: float | None = None
) -> Attribution:
    async def run() -> Attribution:
        with ThreadPoolExecutor(1) as worker:
            manifest = replace(MANIFEST, background=tuple(tuple(r) for r in background))
            attributor = Attributor(engine, manifest, worker=worker, clock=lambda: 100.0)
            first = await attributor.attribute(np.array(row, "<f4").tobytes(), deadline)
            assert await attributor.attribute(np.array(row, "<f4").tobytes(), deadline) == first, "it is repeatable"
            return first

    return asyncio.run(run())


VALUES = st.floats(-10, 10, width=32)


@settings(deadline=None)  # the first example also pays for starting threads
@given(st.data(), st.integers(1, 40), st.integers(1, 100))
def test_contributions_add_up_and_are_exact_for_a_sum(data: st.DataObject, features: int, backgrounds: int) -> None:
    """For a sum of terms the Shapley value is each term's change from its mean over the background rows in use."""
    vectors = st.lists(VALUES, min_size=features, max_size=features)
    seed = data.draw(st.integers(0, 1000))
    background = np.random.default_rng(seed).normal(size=(backgrounds, features)).astype("f4").tolist()
    weights, row = data.draw(vectors), data.draw(vectors)
    engine = Formula(tuple(weights))
    value, base, contributions = attribute(engine, background, row)
    assert sum(contributions) == pytest.approx(value - base, abs=1e-6)
    if backgrounds <= MAX_PAIRS and backgrounds * (2 * (features - 1) + 1) < MAX_ROWS:
        mean = np.mean(background, axis=0)
        expected = [w * (x - m) for w, x, m in zip(weights, row, mean, strict=True)]
        assert contributions == pytest.approx(expected, abs=2e-3)
    assert engine.rows_run <= 2 * (MAX_ROWS + 1)


def test_an_interaction_is_shared_equally() -> None:
    """x0·x1 against the reference row 0 belongs to both by halves: antithetic walks give it exactly."""
    engine = Formula((0.0, 0.0, 0.0), product=1.0)
    value, base, contributions = attribute(engine, [[0.0, 0.0, 0.0]], [2.0, 3.0, 5.0])
    assert (value, base) == (6.0, 0.0)
    assert contributions == pytest.approx([3.0, 3.0, 0.0])


def test_missing_values_in_the_background_reach_the_model_as_nan() -> None:
    """The engine sees NaN there (and counts it as 0)."""
    value, base, contributions = attribute(Formula((1.0, 1.0)), [[None, 1.0]], [2.0, 1.0])
    assert (value, base, contributions) == (3.0, 1.0, [2.0, 0.0])


def test_as_many_features_as_a_schema_may_have() -> None:
    """512 features cost one pair of walks."""
    engine = Formula(tuple([1.0] * 512))
    value, base, contributions = attribute(engine, [[0.0] * 512] * 3, [0.5] * 512)
    assert (value, base) == (256.0, 0.0)
    assert contributions == pytest.approx([0.5] * 512)


def test_a_deadline_that_passed_stops_the_work() -> None:
    """Nothing runs for a caller that has gone."""
    engine = Formula((1.0, 1.0))
    with pytest.raises(DeadlineExceeded):
        attribute(engine, [[0.0, 0.0]], [1.0, 1.0], deadline=99.0)
    assert engine.rows_run == 0


def test_no_background_no_attribution() -> None:
    """The sentence says what to do."""
    with pytest.raises(FailedPrecondition, match="package the variant again"):
        attribute(Formula((1.0,)), [], [1.0])


def test_an_answer_that_is_no_number_has_no_attribution() -> None:
    """Rather than contributions that are NaN."""
    with pytest.raises(InvalidArgument, match="no finite answer"):
        attribute(Formula((math.nan, 1.0)), [[0.0, 0.0]], [1.0, 1.0])
