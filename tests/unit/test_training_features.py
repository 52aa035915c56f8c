"""Datasets, engineered features and exact thresholds: what a model learns from is what a server computes."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import TensorProto, helper

from bentos.dispatch import FAMILY
from bentos.family import Interval, Product, Record
from services.runtime.errors import FailedPrecondition, InvalidArgument
from services.training.dataset import Dataset, Matrix, encode, split_by_time
from services.training.engineering import Engineering
from services.training.export import INPUT, OUTPUT
from services.training.inference import Graph
from services.training.trees import ML_DOMAIN, at_most, below

WIDTH = len(FAMILY.schema)
ENGINEERED = (
    Product("square", "hour", "hour"),
    Product("severity_x_distance", "severity", "distance_km"),
    Interval("office", "hour", 9, 17.3),
    Interval("night", "hour", 22.1, 6),
    Interval("cardiac", "call_type", 2, 3),
)
# Bounds of the intervals above, their float32 neighbours, and anything else.
BOUNDS = np.array([9, 17.3, 22.1, 6, 2, 3], dtype=np.float32)
SIDES = np.array([[-np.inf], [np.inf]], dtype=np.float32)
TRICKY = [*map(float, BOUNDS), *np.nextafter(BOUNDS, SIDES).ravel().tolist()]
CELLS = st.one_of(st.sampled_from([math.nan, *TRICKY]), st.floats(-1e3, 1e3, width=32))
ROWS = npst.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(WIDTH)), elements=CELLS)


def _record(number: int, at: float = 0.0, outcome: float = 1.0, **features: float) -> Record:
    return Record(at, f"d{number}", f"u{number}", "", {"severity": 3.0, **features}, outcome)


def _compiled(engineering: Engineering) -> Graph:
    nodes, constants = engineering.nodes(INPUT, OUTPUT)
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", WIDTH])]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", len(engineering.names)])]
    body = helper.make_graph(nodes, "features", inputs, outputs, initializer=constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML_DOMAIN, 3)]
    return Graph(helper.make_model(body, opset_imports=opsets, ir_version=9).SerializeToString())


@pytest.fixture(scope="module", params=["dispatch", "tricky", "products", "intervals"])
def both(request: pytest.FixtureRequest) -> tuple[Engineering, Graph]:
    """The two forms of a family's engineered features."""
    engineered = {
        "dispatch": FAMILY.engineered,
        "tricky": ENGINEERED,
        "products": ENGINEERED[:2],
        "intervals": ENGINEERED[2:],
    }[request.param]
    engineering = Engineering(replace(FAMILY, engineered=engineered))
    return engineering, _compiled(engineering)


@settings(deadline=None)
@given(rows=ROWS)
def test_numpy_and_onnx_engineer_the_same_bits(both: tuple[Engineering, Graph], rows: Matrix) -> None:
    """The nodes compute exactly what numpy does, at the bounds of intervals and for missing values too."""
    engineering, graph = both
    computed = graph.outputs(rows)
    np.testing.assert_array_equal(computed, engineering.compute(rows))
    assert computed.shape == (len(rows), len(engineering.names))


def test_engineered_features_mean_what_they_say() -> None:
    """Products multiply, intervals include their low end only, the night wraps around midnight, missing stays out."""
    engineering = Engineering(replace(FAMILY, engineered=ENGINEERED))
    rows = np.full((4, WIDTH), np.nan, dtype=np.float32)
    rows[:, 0] = 3.0
    rows[:3, FAMILY.schema.names.index("hour")] = [9.0, 23.0, 6.0]
    rows[0, FAMILY.schema.names.index("distance_km")] = 4.0
    square, product, office, night, cardiac = engineering.compute(rows)[:, WIDTH:].T
    np.testing.assert_array_equal(square, [81.0, 529.0, 36.0, math.nan])
    np.testing.assert_array_equal(product, [12.0, math.nan, math.nan, math.nan])
    np.testing.assert_array_equal(office, [1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(night, [0.0, 1.0, 0.0, 0.0])
    np.testing.assert_array_equal(cardiac, [0.0, 0.0, 0.0, 0.0])


@settings(deadline=None)
@given(st.floats(-(2.0**99), 2.0**99), st.floats(-(2.0**99), 2.0**99, width=32))
def test_float32_thresholds_decide_like_float64_ones(threshold: float, x: float) -> None:
    """x <= t and x < t hold for a float32 x exactly when x is at most the threshold that is exported."""
    nearest = np.float32(threshold)
    for value in (x, float(nearest), *np.nextafter(nearest, SIDES).ravel().tolist()):
        assert (value <= threshold) == bool(np.float32(value) <= at_most(np.array([threshold]))[0])
        assert (value < threshold) == bool(np.float32(value) <= below(np.array([threshold]))[0])


def test_a_threshold_beyond_float32_lets_every_number_pass() -> None:
    """LightGBM's 1e300 becomes the largest float32 number."""
    assert at_most(np.array([1e300]))[0] == np.finfo(np.float32).max


def test_records_become_rows_in_order_of_time() -> None:
    """Rows are encoded as the schema does, oldest first, and what was left out is NaN."""
    records = [
        _record(number, at=float(99 - number), outcome=float(number % 2), hour=float(number)) for number in range(24)
    ]
    data = encode(FAMILY, records)
    assert data.features.dtype == np.float32
    np.testing.assert_array_equal(data.at, np.arange(76.0, 100.0))
    np.testing.assert_array_equal(data.features[:, FAMILY.schema.names.index("hour")], np.arange(23.0, -1.0, -1.0))
    np.testing.assert_array_equal(data.outcomes, [1.0, 0.0] * 12)
    assert np.isnan(data.features[:, FAMILY.schema.names.index("distance_km")]).all()


def test_too_few_records_are_refused() -> None:
    """Nineteen decisions are no data set."""
    with pytest.raises(FailedPrecondition, match="at least 20 decisions with outcomes; there are 19"):
        encode(FAMILY, [_record(number) for number in range(19)])


@pytest.mark.parametrize("outcome", [0.5, 2.0, math.nan])
def test_an_outcome_that_cannot_be_is_refused(outcome: float) -> None:
    """A binary outcome is 0 or 1; the sentence names the decision."""
    with pytest.raises(InvalidArgument, match="decision 'd7' must be 0 or 1"):
        encode(FAMILY, [_record(7, outcome=outcome)])


def _dataset(times: list[float]) -> Dataset:
    at = np.array(sorted(times))
    return Dataset(np.zeros((len(at), WIDTH), dtype=np.float32), np.zeros(len(at)), at)


@settings(deadline=None)
@given(st.lists(st.integers(0, 30).map(float), min_size=20, max_size=200))
def test_no_moment_lies_in_two_parts(times: list[float]) -> None:
    """The parts follow one another in time without overlap, and together they are the whole."""
    data = _dataset(times)
    split = split_by_time(data)
    parts = [split.train, split.calibration, split.test]
    np.testing.assert_array_equal(np.concatenate([part.at for part in parts]), data.at)
    filled = [part for part in parts if len(part)]
    for older, newer in pairwise(filled):
        assert older.at[-1] < newer.at[0]


def test_shares_of_the_split() -> None:
    """Of moments that all differ, 70 % train, 15 % calibrate and 15 % test."""
    split = split_by_time(_dataset([float(number) for number in range(1000)]))
    assert (len(split.train), len(split.calibration), len(split.test)) == (700, 150, 150)


def test_the_fingerprint_knows_every_value() -> None:
    """The same rows have the same fingerprint; another feature, outcome or time gives another."""
    data = _dataset([float(number) for number in range(20)])
    prints = {data.fingerprint(), _dataset([float(number) for number in range(20)]).fingerprint()}
    assert len(prints) == 1
    for change in ("features", "outcomes", "at"):
        changed = getattr(data, change).copy()
        changed[-1] = 7
        prints.add(replace(data, **{change: changed}).fingerprint())
    assert len(prints) == 4
