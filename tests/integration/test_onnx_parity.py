"""Every variant's exported graph answers like the native model that was trained, for any row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from lightgbm import LGBMRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor, VotingRegressor
from xgboost import XGBRegressor

from bentos.dispatch import FAMILY
from bentos.schema import Category, Number
from services.runtime.errors import Unimplemented
from services.training import calibration as platt
from services.training.dataset import Matrix, Vector
from services.training.engineering import Engineering
from services.training.export import to_onnx
from services.training.inference import Graph
from services.training.pipeline import answers_of, load_trainer

WIDTH = len(FAMILY.schema)
ROWS = 600
TOLERANCE = 1e-5


def _bounds() -> list[tuple[float, float]]:
    bounds = []
    for feature in FAMILY.schema.features:
        match feature:
            case Number(low=low, high=high):
                bounds.append((low, high))
            case Category(values=values):
                bounds.append((0.0, len(values) - 1.0))
            case _:
                raise AssertionError(feature)
    return bounds


BOUNDS = _bounds()


def _sample(random: np.random.Generator, rows: int, missing: float) -> Matrix:
    low, high = np.array(BOUNDS).T
    values = random.uniform(low, high, (rows, WIDTH))
    values[:, -2:] = np.round(values[:, -2:])
    values[random.random(values.shape) < missing] = math.nan
    return values.astype(np.float32)


def _outcomes(random: np.random.Generator, features: Matrix) -> Vector:
    time = np.nan_to_num(features[:, 3], nan=60.0) / 60.0
    fit = np.nan_to_num(features[:, 4], nan=0.5)
    chance = platt.sigmoid((2.0 + 3.0 * fit - 1.5 * time).astype(np.float64))
    return (random.random(len(features)) < chance).astype(np.float64)


@dataclass(frozen=True)
class Pair:
    """A native model with its calibration, and its graph."""

    estimator: Any
    calibration: platt.Calibration | None
    graph: Graph
    engineering: Engineering

    def native(self, rows: Matrix) -> Vector:
        """Gives what the trained model says, calibrated in float64."""
        answers = answers_of(self.estimator, self.engineering.compute(rows))
        return self.calibration.apply(answers) if self.calibration else answers


def _pair(estimator: Any, outcomes: Any, features: Matrix, calibration: platt.Calibration | None) -> Pair:
    engineering = Engineering(FAMILY)
    estimator.fit(engineering.compute(features), outcomes)
    graph = Graph(to_onnx(estimator, engineering, WIDTH, calibration))
    return Pair(estimator, calibration, graph, engineering)


@pytest.fixture(
    scope="module",
    params=[(variant, missing) for variant in FAMILY.variants for missing in (0.0, 0.3)],
    ids=lambda param: f"{param[0].name}-{param[1]:.0%}-missing",
)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each variant, learnt from rows with and without missing values; one feature nobody ever reported."""
    variant, missing = request.param
    random = np.random.default_rng(11)
    features = _sample(random, ROWS, missing)
    if missing:
        features[:, FAMILY.schema.names.index("patient_age")] = math.nan
    outcomes = _outcomes(random, features).astype(np.int64)
    return _pair(load_trainer(variant)(5), outcomes, features, platt.Calibration(0.8, -0.3))


@pytest.mark.parametrize("missing", [0.0, 0.2, 0.9])
def test_the_graph_answers_like_the_native_model(pair: Pair, missing: float) -> None:
    """Two thousand rows within the schema, complete and full of holes: equal within 1e-5."""
    rows = _sample(np.random.default_rng(3), 2000, missing)
    answers = pair.graph.run(rows)
    np.testing.assert_allclose(answers, pair.native(rows), rtol=0, atol=TOLERANCE)
    assert ((answers >= 0.0) & (answers <= 1.0)).all()
    assert missing == 0.9 or answers.std() > 0.01


CELLS = st.one_of(st.just(math.nan), *(st.floats(low, high, width=32) for low, high in {(0.0, 1.0), (0.0, 256.0)}))


@settings(deadline=None, max_examples=30)
@given(npst.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(WIDTH)), elements=CELLS))
def test_the_graph_answers_like_the_native_model_for_any_row(pair: Pair, rows: Matrix) -> None:
    """Rows that nobody would send, inside and outside the schema's bounds: still equal within 1e-5."""
    np.testing.assert_allclose(pair.graph.run(rows), pair.native(rows), rtol=0, atol=TOLERANCE)


def test_a_row_at_a_split_takes_the_same_branch(pair: Pair) -> None:
    """Values that occur in training, where splits lie closest, and their float32 neighbours go the same way."""
    random = np.random.default_rng(11)
    rows = _sample(random, ROWS, 0.0)
    for near in (rows, np.nextafter(rows, np.float32(np.inf)), np.nextafter(rows, np.float32(-np.inf))):
        np.testing.assert_allclose(pair.graph.run(near), pair.native(near), rtol=0, atol=TOLERANCE)


def test_a_row_alone_gets_the_answer_it_gets_in_a_batch(pair: Pair) -> None:
    """Batching changes no answer by more than the rounding of a sum."""
    rows = _sample(np.random.default_rng(4), 64, 0.2)
    alone = np.concatenate([pair.graph.run(rows[[index]]) for index in range(len(rows))])
    np.testing.assert_allclose(alone, pair.graph.run(rows), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "estimator",
    [
        XGBRegressor(n_estimators=20, max_depth=4, n_jobs=1),
        LGBMRegressor(n_estimators=20, verbosity=-1, n_jobs=1),
        RandomForestRegressor(n_estimators=10, max_depth=6, random_state=1),
        HistGradientBoostingRegressor(max_iter=20, random_state=1),
        VotingRegressor(
            [("a", XGBRegressor(n_estimators=5, n_jobs=1)), ("b", RandomForestRegressor(3, random_state=1))],
            weights=[3, 1],
        ),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_numbers_are_exported_as_well(estimator: Any) -> None:
    """A family whose target is a number gets graphs that answer like its regressors."""
    random = np.random.default_rng(2)
    features = _sample(random, ROWS, 0.2)
    features[:, 5] = np.nan_to_num(features[:, 5], nan=40.0)
    outcomes = 30.0 + 5.0 * np.nan_to_num(features[:, 0]) + random.normal(size=ROWS)
    pair = _pair(estimator, outcomes, features, None)
    rows = _sample(np.random.default_rng(3), 500, 0.2)
    np.testing.assert_allclose(pair.graph.run(rows), pair.native(rows), rtol=1e-5)


def test_only_known_learners_are_exported() -> None:
    """A learner without trees is refused in one sentence instead of being exported wrongly."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(np.eye(2), [0, 1])
    with pytest.raises(Unimplemented, match="LogisticRegression cannot be exported"):
        to_onnx(model, Engineering(FAMILY), WIDTH, platt.IDENTITY)


def test_a_single_model_is_a_handful_of_nodes() -> None:
    """A boosted model with all its features and calibration passes at most eight nodes, none of them a ZipMap."""
    random = np.random.default_rng(11)
    features = _sample(random, ROWS, 0.1)
    estimator = load_trainer(FAMILY.variants[0])(5)
    engineering = Engineering(FAMILY)
    estimator.fit(engineering.compute(features), _outcomes(random, features).astype(np.int64))
    model = onnx.load_from_string(to_onnx(estimator, engineering, WIDTH, platt.Calibration(0.9, 0.1)))
    assert len(model.graph.node) <= 8
    assert "ZipMap" not in {node.op_type for node in model.graph.node}
    (result,) = model.graph.output
    assert result.name == "p"
    assert result.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
