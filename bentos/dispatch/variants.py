"""The trained variants of dispatch: for each, an estimator with the scikit-learn interface, not fitted yet.

The only module of the family that imports ML libraries, and only training imports it. Training fits what a function
here gives on the engineered features (float32, NaN for missing: every learner handles missing values itself, in its
splits) and exports it. Numbers of trees and depths are declared, so that an answer takes microseconds; the other
hyper-parameters are the best of a search over folds of time (`docs/data-sf-fire-calls.md` has the figures).
"""

from __future__ import annotations

from typing import Any, Final, Self

import numpy as np
from lightgbm import LGBMClassifier
from numpy.typing import NDArray
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from xgboost import XGBClassifier

VOTING_WEIGHTS: Final = (3.0, 3.0, 1.0, 2.0)
"""Of XGBoost, LightGBM, the forest and gradient boosting."""
_THREADS: Final = 1
"""Boosting waits for all its threads at every split: with a busy core, two of them took ten times as long as one.

And a forest of several threads sums its trees in whatever order they finish, so its last bits vary.
"""


def xgboost(seed: int) -> XGBClassifier:
    """Gives the base model: 200 trees of depth 6."""
    return XGBClassifier(
        n_estimators=200,
        max_depth=6,
        learning_rate=0.016,
        min_child_weight=22,
        subsample=0.99,
        colsample_bytree=0.81,
        reg_lambda=2.2,
        tree_method="hist",
        n_jobs=_THREADS,
        random_state=seed,
    )


def lightgbm(seed: int) -> LGBMClassifier:
    """Gives LightGBM, reproducible whatever the number of threads."""
    return LGBMClassifier(
        n_estimators=200,
        num_leaves=9,
        learning_rate=0.024,
        min_child_samples=5,
        subsample=0.84,
        subsample_freq=1,
        colsample_bytree=0.53,
        reg_lambda=0.52,
        deterministic=True,
        force_col_wise=True,
        n_jobs=_THREADS,
        random_state=seed,
        verbosity=-1,
    )


def random_forest(seed: int) -> RandomForestClassifier:
    """Gives a forest bounded in size: 100 trees of at most 53 leaves."""
    return RandomForestClassifier(
        n_estimators=100,
        max_leaf_nodes=53,
        min_samples_leaf=6,
        max_features=0.38,
        n_jobs=_THREADS,
        random_state=seed,
    )


class GradientBoosting(HistGradientBoostingClassifier):  # type: ignore[misc]  # scikit-learn carries no types
    """scikit-learn's histogram boosting, which also bears a feature that nobody ever reported.

    Its binning fails on a column without a single value, and a fold of time may well have one.
    """

    def fit(self, X: NDArray[np.float32], y: NDArray[Any]) -> Self:  # noqa: N803 - scikit-learn's name
        """Fits [n, f]; a feature that is missing in all rows becomes a constant, which no split can use."""
        known = np.where(np.isnan(X).all(axis=0), np.float32(0.0), X)
        fitted: Self = super().fit(known, y)
        return fitted


def gradient_boosting(seed: int) -> GradientBoosting:
    """Gives gradient boosting over binned features."""
    return GradientBoosting(
        max_iter=120,
        max_leaf_nodes=20,
        learning_rate=0.03,
        min_samples_leaf=43,
        l2_regularization=3.3,
        max_features=0.51,
        early_stopping=False,
        random_state=seed,
    )


def _base(seed: int) -> list[tuple[str, Any]]:
    return [
        ("xgboost", xgboost(seed)),
        ("lightgbm", lightgbm(seed)),
        ("random_forest", random_forest(seed)),
        ("gradient_boosting", gradient_boosting(seed)),
    ]


def voting(seed: int) -> VotingClassifier:
    """Gives the weighted mean of the four learners' probabilities."""
    return VotingClassifier(_base(seed), voting="soft", weights=VOTING_WEIGHTS)


def stacking(seed: int) -> StackingClassifier:
    """Gives a logistic regression over the four learners' out-of-fold probabilities.

    The folds are stretches of time, not shuffled rows: neighbours in time resemble one another.
    """
    return StackingClassifier(_base(seed), final_estimator=LogisticRegression(C=1.0), cv=KFold(4))
