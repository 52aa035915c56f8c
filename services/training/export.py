"""A fitted estimator as one self-contained ONNX graph: raw row in, calibrated probability (or number) out.

The graph is: raw features (float32 [n, f], NaN for missing) → engineered features, shared by all members of an
ensemble → one tree node for all boosted members and one for all forests → calibration → `p` (float32 [n, 1]). Missing
values need no nodes of their own: every split knows where they go. For a boosted model the calibration is folded into
the leaves, so that a single row passes seven nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper
from sklearn.base import is_classifier
from sklearn.ensemble import (
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)

from services.training.calibration import CLIP, Calibration
from services.training.engineering import Engineering
from services.training.learners import forest_of
from services.training.trees import ML_DOMAIN, Forest, ensemble_node

INPUT: Final = "features"
OUTPUT: Final = "p"
_OPSET: Final = 17
_ML_OPSET: Final = 3
_IR_VERSION: Final = 9


@dataclass(frozen=True, slots=True)
class Member:
    """A learner and its weight; `boosted` means that its trees sum to the logit of its probability."""

    forest: Forest
    boosted: bool
    weight: float


@dataclass(frozen=True, slots=True)
class Blend:
    """offset + Σ weight × the members' answers; `logit` means that this sum is the logit of the answer."""

    members: tuple[Member, ...]
    offset: float
    logit: bool


class Graph:
    """An ONNX graph that grows node by node."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, operator: str, *inputs: str, result: str) -> str:
        """Adds a node and names its result."""
        self.nodes.append(helper.make_node(operator, list(inputs), [result]))
        return result

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Adds a float32 constant and names it."""
        self.constants.append(
            helper.make_tensor(name, TensorProto.FLOAT, values.shape, values.astype(np.float32).ravel())
        )
        return name

    def trees(self, forests: list[Forest], source: str, result: str) -> str:
        """Adds one node that gives one column per forest."""
        numbered = [(target, tree) for target, forest in enumerate(forests) for tree in forest.trees]
        self.nodes.append(ensemble_node(numbered, [forest.base for forest in forests], source, result))
        return result


def blend_of(estimator: Any) -> Blend:
    """Reads a fitted learner, or a voting or stacking ensemble of learners.

    Raises:
        Unimplemented: it holds a learner that cannot be exported.
    """
    match estimator:
        case VotingClassifier() | VotingRegressor():
            weights = np.array(estimator.weights or [1.0] * len(estimator.estimators_), dtype=np.float64)
            shares = weights / weights.sum()
            return Blend(tuple(map(_member, estimator.estimators_, shares)), 0.0, logit=False)
        case StackingClassifier() | StackingRegressor():
            final = estimator.final_estimator_
            members = tuple(map(_member, estimator.estimators_, np.ravel(final.coef_)))
            return Blend(members, float(np.ravel(final.intercept_)[0]), logit=is_classifier(estimator))
        case _:
            member = _member(estimator, 1.0)
            if not member.boosted:
                return Blend((member,), 0.0, logit=False)
            # Alone, a boosted learner is its own logit.
            return Blend((Member(member.forest, boosted=False, weight=1.0),), 0.0, logit=True)


def _member(estimator: Any, weight: float) -> Member:
    boosted = is_classifier(estimator) and not isinstance(estimator, RandomForestClassifier)
    return Member(forest_of(estimator), boosted, float(weight))


def to_onnx(estimator: Any, engineering: Engineering, features: int, calibration: Calibration | None) -> bytes:
    """Exports a fitted estimator; `calibration` is None for a target that is a number.

    Raises:
        Unimplemented: it holds a learner that cannot be exported.
    """
    blend = blend_of(estimator)
    graph = Graph()
    engineered = "engineered" if len(engineering.names) > features else INPUT
    if engineered != INPUT:
        graph.nodes, graph.constants = engineering.nodes(INPUT, engineered)
    if calibration is None:
        _sum(graph, blend, engineered, OUTPUT, factor=1.0, offset=0.0)
    elif blend.logit:
        _sum(graph, blend, engineered, "margin", factor=calibration.slope, offset=calibration.offset)
        graph.node("Sigmoid", "margin", result=OUTPUT)
    else:
        _sum(graph, blend, engineered, "share", factor=1.0, offset=0.0)
        _calibrated(graph, calibration)
    return _model(graph, features).SerializeToString(deterministic=True)


def _sum(graph: Graph, blend: Blend, source: str, result: str, *, factor: float, offset: float) -> None:
    """Adds factor × the blend + offset, with the factor folded into leaves and weights."""
    plain = [member for member in blend.members if not member.boosted]
    boosted = [member for member in blend.members if member.boosted]
    constant = factor * blend.offset + offset
    trees = tuple(tree for m in plain for tree in m.forest.scaled(factor * m.weight).trees)
    base = sum(m.forest.base * m.weight * factor for m in plain) + constant
    together = Forest(trees, base)
    if not boosted:
        graph.trees([together], source, result)
        return
    graph.trees([member.forest for member in boosted], source, "margins")
    graph.node("Sigmoid", "margins", result="shares")
    weights = graph.constant("weights", np.array([[factor * member.weight] for member in boosted]))
    rest = graph.trees([together], source, "rest") if trees else graph.constant("rest", np.array([base]))
    graph.node("Gemm", "shares", weights, rest, result=result)


def _calibrated(graph: Graph, calibration: Calibration) -> None:
    """Adds sigmoid(slope × logit(share) + offset)."""
    graph.node("Clip", "share", _scalar(graph, "lowest", CLIP), _scalar(graph, "highest", 1.0 - CLIP), result="kept")
    graph.node("Sub", _scalar(graph, "one", 1.0), "kept", result="others")
    graph.node("Div", "kept", "others", result="odds")
    graph.node("Log", "odds", result="logit")
    graph.node("Mul", "logit", _scalar(graph, "slope", calibration.slope), result="scaled")
    graph.node("Add", "scaled", _scalar(graph, "offset", calibration.offset), result="margin")
    graph.node("Sigmoid", "margin", result=OUTPUT)


def _scalar(graph: Graph, name: str, value: float) -> str:
    return graph.constant(name, np.array(value))


def _model(graph: Graph, features: int) -> ModelProto:
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", features])]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", 1])]
    body = helper.make_graph(graph.nodes, "turnout", inputs, outputs, initializer=graph.constants)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(ML_DOMAIN, _ML_OPSET)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="turnout")
    checker.check_model(model)
    return model
