"""Reads the trees out of fitted estimators of XGBoost, LightGBM and scikit-learn.

Each reader turns one library's storage into `trees.Forest`. scikit-learn's histogram boosting keeps its trees in
private attributes; the parity test of every variant fails should a new version move them.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from xgboost import XGBClassifier, XGBRegressor

from services.runtime.errors import Unimplemented
from services.training.trees import Forest, Tree, at_most, below


def forest_of(estimator: Any) -> Forest:
    """Gives the trees of a fitted estimator: their sum is a margin for boosting and for a forest the mean.

    A binary classifier's margin is the logit of its probability; a random forest's sum is the probability itself.

    Raises:
        Unimplemented: there is no reader for this kind of estimator, or for an option that it uses.
    """
    if isinstance(estimator, XGBClassifier | XGBRegressor):
        return _xgboost(estimator)
    if isinstance(estimator, LGBMClassifier | LGBMRegressor):
        return _lightgbm(estimator)
    if isinstance(estimator, RandomForestClassifier | RandomForestRegressor):
        return _random_forest(estimator)
    if isinstance(estimator, HistGradientBoostingClassifier | HistGradientBoostingRegressor):
        return _histogram_boosting(estimator)
    raise Unimplemented("trainer", f"a {type(estimator).__name__} cannot be exported; use a tree ensemble")


def _xgboost(estimator: XGBClassifier | XGBRegressor) -> Forest:
    learner = json.loads(estimator.get_booster().save_raw("json"))["learner"]
    objective = learner["objective"]["name"]
    if objective not in {"binary:logistic", "reg:squarederror"}:
        raise Unimplemented("trainer", f"XGBoost's objective {objective} cannot be exported")
    if learner["gradient_booster"]["name"] != "gbtree":
        raise Unimplemented("trainer", "of XGBoost only the booster gbtree can be exported")
    base = float(learner["learner_model_param"]["base_score"].strip("[]"))
    if objective == "binary:logistic":
        base = math.log(base / (1.0 - base))
    trees = []
    for stored in learner["gradient_booster"]["model"]["trees"]:
        left = np.array(stored["left_children"], dtype=np.int64)
        leaf = left < 0
        conditions = np.array(stored["split_conditions"], dtype=np.float32)
        trees.append(
            Tree(
                feature=np.where(leaf, -1, np.array(stored["split_indices"], dtype=np.int64)),
                threshold=below(conditions),
                missing_left=np.array(stored["default_left"], dtype=bool),
                left=left,
                right=np.array(stored["right_children"], dtype=np.int64),
                value=np.where(leaf, conditions, 0.0).astype(np.float64),
            )
        )
    return Forest(tuple(trees), base)


def _lightgbm(estimator: LGBMClassifier | LGBMRegressor) -> Forest:
    model = estimator.booster_.dump_model()
    if model["num_tree_per_iteration"] != 1 or model["objective"].split(" ")[0] not in {"binary", "regression"}:
        raise Unimplemented("trainer", f"LightGBM's objective {model['objective']} cannot be exported")
    return Forest(tuple(_lightgbm_tree(tree["tree_structure"]) for tree in model["tree_info"]), 0.0)


def _lightgbm_tree(root: dict[str, Any]) -> Tree:
    nodes = [root]
    left, right = [], []
    for node in nodes:  # grows while it is walked: breadth first
        if "leaf_value" in node:
            left.append(-1)
            right.append(-1)
            continue
        if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
            raise Unimplemented("trainer", "of LightGBM only numeric splits without zero_as_missing can be exported")
        left.append(len(nodes))
        right.append(len(nodes) + 1)
        nodes += (node["left_child"], node["right_child"])
    threshold = np.array([node.get("threshold", 0.0) for node in nodes], dtype=np.float64)
    return Tree(
        feature=np.array([node.get("split_feature", -1) for node in nodes], dtype=np.int64),
        threshold=at_most(threshold),
        missing_left=np.array([_lightgbm_missing_left(node) for node in nodes], dtype=bool),
        left=np.array(left, dtype=np.int64),
        right=np.array(right, dtype=np.int64),
        value=np.array([node.get("leaf_value", 0.0) for node in nodes], dtype=np.float64),
    )


def _lightgbm_missing_left(node: dict[str, Any]) -> bool:
    if "leaf_value" in node:
        return False
    # Where nothing was missing in training, LightGBM reads what is missing as 0.
    return bool(node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0.0)


def _random_forest(estimator: RandomForestClassifier | RandomForestRegressor) -> Forest:
    trees = []
    for member in estimator.estimators_:
        stored = member.tree_
        leaf = stored.children_left < 0
        # Classes are [0, 1]: the last column is the share of the positive class; a regressor has one column.
        trees.append(
            Tree(
                feature=np.where(leaf, -1, stored.feature).astype(np.int64),
                threshold=at_most(stored.threshold),
                missing_left=np.asarray(stored.missing_go_to_left, dtype=bool),
                left=stored.children_left.astype(np.int64),
                right=stored.children_right.astype(np.int64),
                value=stored.value[:, 0, -1] / len(estimator.estimators_),
            )
        )
    return Forest(tuple(trees), 0.0)


def _histogram_boosting(estimator: HistGradientBoostingClassifier | HistGradientBoostingRegressor) -> Forest:
    trees = []
    for (predictor,) in estimator._predictors:  # noqa: SLF001 - scikit-learn offers no public way to its trees
        nodes = predictor.nodes
        if nodes["is_categorical"].any():
            raise Unimplemented("trainer", "of histogram boosting only numeric splits can be exported")
        leaf = nodes["is_leaf"].astype(bool)
        trees.append(
            Tree(
                feature=np.where(leaf, -1, nodes["feature_idx"]).astype(np.int64),
                threshold=at_most(nodes["num_threshold"]),
                missing_left=nodes["missing_go_to_left"].astype(bool),
                left=nodes["left"].astype(np.int64),
                right=nodes["right"].astype(np.int64),
                value=np.where(leaf, nodes["value"], 0.0),
            )
        )
    return Forest(tuple(trees), float(np.ravel(estimator._baseline_prediction)[0]))  # noqa: SLF001 - as above
