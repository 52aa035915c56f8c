"""Fitted trees of any learner in one form, and as one ONNX node.

The four learners store trees differently: `x < t` in float32 (XGBoost), `x <= t` with t in float64 (LightGBM,
scikit-learn), and each with its own treatment of what is missing. All are brought to `x <= t` with t the largest
float32 number that decides every float32 x alike, so that a served tree takes exactly the branches of the native one;
only the sums of the leaves are rounded differently. General converters round t to the nearest float32 and export each
learner as a graph of its own; an ensemble here is one node over one shared set of engineered features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import helper

ML_DOMAIN: Final = "ai.onnx.ml"


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree as arrays over its nodes; node 0 is the root.

    An inner node goes left when its feature is at most `threshold`, or missing and `missing_left`. A leaf has feature
    -1 and counts with its `value`.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float32]
    missing_left: NDArray[np.bool_]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.float64]

    def scaled(self, factor: float) -> Tree:
        """Gives the tree with its leaves times `factor`."""
        return Tree(self.feature, self.threshold, self.missing_left, self.left, self.right, self.value * factor)


@dataclass(frozen=True, slots=True)
class Forest:
    """A sum of trees and a constant."""

    trees: tuple[Tree, ...]
    base: float

    def scaled(self, factor: float, offset: float = 0.0) -> Forest:
        """Gives factor × the forest + offset."""
        return Forest(tuple(tree.scaled(factor) for tree in self.trees), self.base * factor + offset)


_LARGEST: Final = float(np.finfo(np.float32).max)


def at_most(thresholds: NDArray[Any]) -> NDArray[np.float32]:
    """Gives, for each t, the largest float32 number <= t: x <= t decides alike for every finite float32 x."""
    # LightGBM writes 1e300 where any number goes left and only what is missing goes right.
    wide = np.clip(thresholds.astype(np.float64), -_LARGEST, _LARGEST)
    nearest = wide.astype(np.float32)
    down = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest.astype(np.float64) > wide, down, nearest).astype(np.float32)


def below(thresholds: NDArray[Any]) -> NDArray[np.float32]:
    """Gives, for each t, the largest float32 number < t: x < t and x <= result decide alike for every float32 x."""
    wide = thresholds.astype(np.float64)
    nearest = wide.astype(np.float32)
    down = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest.astype(np.float64) >= wide, down, nearest).astype(np.float32)


def ensemble_node(trees: Sequence[tuple[int, Tree]], base: Sequence[float], source: str, result: str) -> Any:
    """Gives the node that sums trees by target: [n, len(base)] from [n, f]; each tree comes with its target."""
    sizes = [len(tree.feature) for _, tree in trees]
    numbers = np.repeat(np.arange(len(trees)), sizes)
    ids = np.concatenate([np.arange(size) for size in sizes])
    targets = np.repeat([target for target, _ in trees], sizes)
    feature = np.concatenate([tree.feature for _, tree in trees])
    leaf = feature < 0
    value = np.concatenate([tree.value for _, tree in trees])

    def column(name: str) -> NDArray[Any]:
        return np.where(leaf, 0, np.concatenate([getattr(tree, name) for _, tree in trees]))

    return helper.make_node(
        "TreeEnsembleRegressor",
        [source],
        [result],
        domain=ML_DOMAIN,
        aggregate_function="SUM",
        post_transform="NONE",
        n_targets=len(base),
        base_values=[float(number) for number in base],
        nodes_treeids=numbers.tolist(),
        nodes_nodeids=ids.tolist(),
        nodes_featureids=np.where(leaf, 0, feature).tolist(),
        nodes_values=column("threshold").astype(np.float32).tolist(),
        nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_truenodeids=column("left").tolist(),
        nodes_falsenodeids=column("right").tolist(),
        nodes_missing_value_tracks_true=column("missing_left").astype(np.int64).tolist(),
        target_treeids=numbers[leaf].tolist(),
        target_nodeids=ids[leaf].tolist(),
        target_ids=targets[leaf].tolist(),
        target_weights=value[leaf].astype(np.float32).tolist(),
    )
