"""A family's engineered features, compiled twice: to numpy for training, and to ONNX nodes for serving.

Both give the raw features, then all products, then all intervals, in float32, with the very same bits: a product is
one float32 multiplication, an interval is two comparisons whose bounds are moved to the float32 number that decides
alike. Missing: a product with something missing is missing; an interval of something missing is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from bentos.family import Family, Interval, Product
from services.training.dataset import Matrix
from services.training.trees import Tree, below, ensemble_node

_PRODUCT_INPUTS = ("engineering_left", "engineering_right")


class Engineering:
    """The compiled features. `names` gives the columns of both forms, in order."""

    def __init__(self, family: Family) -> None:
        place = {name: index for index, name in enumerate(family.schema.names)}
        products = [feature for feature in family.engineered if isinstance(feature, Product)]
        self._intervals = [(f, place[f.feature]) for f in family.engineered if isinstance(f, Interval)]
        self._left = np.array([place[product.left] for product in products], dtype=np.int64)
        self._right = np.array([place[product.right] for product in products], dtype=np.int64)
        engineered = [product.name for product in products] + [interval.name for interval, _ in self._intervals]
        self.names: tuple[str, ...] = (*family.schema.names, *engineered)

    def compute(self, raw: Matrix) -> Matrix:
        """Gives [n, len(names)] from raw [n, f]."""
        columns = [raw, raw[:, self._left] * raw[:, self._right]]
        columns += [_inside(interval, raw[:, [index]]) for interval, index in self._intervals]
        return np.ascontiguousarray(np.concatenate(columns, axis=1), dtype=np.float32)

    def nodes(self, source: str, result: str) -> tuple[list[Any], list[Any]]:
        """Gives the ONNX nodes and constants that compute tensor `result` from the raw tensor `source`."""
        nodes, constants, parts = [], [], [source]
        if len(self._left):
            for name, indices in zip(_PRODUCT_INPUTS, (self._left, self._right), strict=True):
                constants.append(helper.make_tensor(f"{name}_at", TensorProto.INT64, indices.shape, indices))
                nodes.append(helper.make_node("Gather", [source, f"{name}_at"], [name], axis=1))
            nodes.append(helper.make_node("Mul", list(_PRODUCT_INPUTS), ["products"]))
            parts.append("products")
        if self._intervals:
            # One node for all: each interval is a tree with two questions and its own column.
            trees = [(target, _as_tree(*interval)) for target, interval in enumerate(self._intervals)]
            nodes.append(ensemble_node(trees, [0.0] * len(self._intervals), source, "intervals"))
            parts.append("intervals")
        nodes.append(helper.make_node("Concat", parts, [result], axis=1))
        return nodes, constants


def _inside(interval: Interval, values: Matrix) -> Matrix:
    wide = values.astype(np.float64)
    reached, passed = wide >= interval.low, wide >= interval.high
    wraps = interval.low > interval.high
    inside = reached | (~passed & ~np.isnan(wide)) if wraps else reached & ~passed
    return inside.astype(np.float32)


def _as_tree(interval: Interval, feature: int) -> Tree:
    """Asks x < first?, then x < second?; whoever is missing ends in a leaf of 0."""
    wraps = interval.low > interval.high
    first, second = sorted((interval.low, interval.high))
    return Tree(
        feature=np.array([feature, -1, feature, -1, -1]),
        threshold=below(np.array([first, 0.0, second, 0.0, 0.0])),
        missing_left=np.array([not wraps, False, True, False, False]),
        left=np.array([1, -1, 3, -1, -1]),
        right=np.array([2, -1, 4, -1, -1]),
        value=np.array([0.0, 1.0, 0.0, 0.0, 1.0]) if wraps else np.array([0.0, 0.0, 0.0, 1.0, 0.0]),
    )
