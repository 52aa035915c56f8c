"""Searches hyper-parameters of a learner with optuna, judged by folds that respect time.

Each fold trains on a stretch of the past and is judged by the stretch that follows it; the newest part of the data,
which the pipeline tests on, is never looked at. The first trial is the variant as declared, so that a search says
whether its best is better than what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import optuna
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.model_selection import TimeSeriesSplit
from xgboost import XGBClassifier, XGBRegressor

from bentos.family import Family, Record, TargetKind, Variant
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from services.training.dataset import Matrix, Vector, encode, split_by_time
from services.training.engineering import Engineering
from services.training.evaluation import log_loss
from services.training.pipeline import answers_of, fit, load_trainer

MOST_TRIALS: Final = 1000
_FOLDS: Final = 3

Parameters = dict[str, int | float | str]
SearchProgress = Callable[[int, int, float], None]
"""Called with (trials done, trials in all, best loss so far)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The best parameters and their loss (log loss, or mean absolute error), beside the declared ones' loss."""

    variant: str
    parameters: Parameters
    loss: float
    declared_loss: float
    trials: int


def search(
    family: Family,
    records: Iterable[Record],
    variant: str,
    *,
    trials: int,
    seed: int,
    timeout_s: float = 3600.0,
    progress: SearchProgress = lambda _done, _trials, _best: None,
) -> SearchResult:
    """Tries `trials` sets of hyper-parameters, the declared one first, for at most `timeout_s` seconds.

    With the same seed, records and number of trials that were finished, the result is the same. `parameters` is empty
    when nothing beat the declared ones.

    Raises:
        InvalidArgument: trials are not from 1 to 1000, or a record does not fit the family.
        NotFound: the family has no such variant.
        Unimplemented: the variant is an ensemble; search its members.
        FailedPrecondition: there is too little data.
    """
    if not 1 <= trials <= MOST_TRIALS:
        raise InvalidArgument("trials", f"trials must be from 1 to {MOST_TRIALS}, not {trials}")
    declared = _declared(family, variant)
    suggest = _space(load_trainer(declared)(seed))
    past = split_by_time(encode(family, records)).train
    features = Engineering(family).compute(past.features)
    judge = _Judge(declared, features, past.outcomes, binary=family.target.kind is TargetKind.BINARY)
    first = judge.loss(load_trainer(declared)(seed))

    def objective(trial: optuna.Trial) -> float:
        return judge.loss(load_trainer(declared)(seed).set_params(**suggest(trial)))

    def report(study: optuna.Study, _trial: optuna.trial.FrozenTrial) -> None:
        progress(len(study.trials) + 1, trials, min(first, study.best_value))

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), direction="minimize")
        if trials > 1:
            study.optimize(objective, n_trials=trials - 1, timeout=timeout_s, callbacks=[report])
    finally:
        optuna.logging.set_verbosity(verbosity)
    better = bool(study.trials) and study.best_value < first
    return SearchResult(
        variant=variant,
        parameters=dict(study.best_params) if better else {},
        loss=study.best_value if better else first,
        declared_loss=first,
        trials=len(study.trials) + 1,
    )


class _Judge:
    """Measures an estimator by the mean loss over folds of time."""

    def __init__(self, variant: Variant, features: Matrix, outcomes: Vector, *, binary: bool) -> None:
        self._variant, self._features, self._outcomes, self._binary = variant, features, outcomes, binary
        self._folds = list(TimeSeriesSplit(_FOLDS).split(features))
        for past, _ in self._folds:
            if binary and len(np.unique(outcomes[past])) < 2:
                raise FailedPrecondition(
                    "records", "every fold's past needs decisions of both outcomes; add older ones"
                )

    def loss(self, estimator: Any) -> float:
        losses = []
        for past, future in self._folds:
            outcomes = self._outcomes[past].astype(np.int64) if self._binary else self._outcomes[past]
            fit(self._variant, estimator, self._features[past], outcomes)
            answers, truth = answers_of(estimator, self._features[future]), self._outcomes[future]
            losses.append(log_loss(answers, truth) if self._binary else float(np.abs(answers - truth).mean()))
        return float(np.mean(losses))


def _declared(family: Family, name: str) -> Variant:
    for variant in family.variants:
        if variant.name == name:
            return variant
    known = ", ".join(variant.name for variant in family.variants)
    raise NotFound("variant", f"family {family.name!r} has no trained variant {name[:64]!r}; it has: {known}")


def _space(estimator: Any) -> Callable[[optuna.Trial], Parameters]:
    if isinstance(estimator, XGBClassifier | XGBRegressor):
        return _xgboost
    if isinstance(estimator, LGBMClassifier | LGBMRegressor):
        return _lightgbm
    if isinstance(estimator, RandomForestClassifier | RandomForestRegressor):
        return _random_forest
    if isinstance(estimator, HistGradientBoostingClassifier | HistGradientBoostingRegressor):
        return _histogram_boosting
    raise Unimplemented("variant", f"a {type(estimator).__name__} is not searched; search the members of an ensemble")


# The number and depth of trees decide how long an answer takes, so they are declared and not searched.


def _xgboost(trial: optuna.Trial) -> Parameters:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.2, log=True),
        "min_child_weight": trial.suggest_float("min_child_weight", 1.0, 100.0, log=True),
        "subsample": trial.suggest_float("subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.4, 1.0),
        "reg_lambda": trial.suggest_float("reg_lambda", 0.1, 50.0, log=True),
    }


def _lightgbm(trial: optuna.Trial) -> Parameters:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.2, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 7, 63, log=True),
        "min_child_samples": trial.suggest_int("min_child_samples", 5, 200, log=True),
        "subsample": trial.suggest_float("subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.4, 1.0),
        "reg_lambda": trial.suggest_float("reg_lambda", 0.1, 50.0, log=True),
    }


def _random_forest(trial: optuna.Trial) -> Parameters:
    return {
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 32, 512, log=True),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 2, 100, log=True),
        "max_features": trial.suggest_float("max_features", 0.1, 0.8),
    }


def _histogram_boosting(trial: optuna.Trial) -> Parameters:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.2, log=True),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 7, 63, log=True),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 5, 200, log=True),
        "l2_regularization": trial.suggest_float("l2_regularization", 0.1, 50.0, log=True),
        "max_features": trial.suggest_float("max_features", 0.4, 1.0),
    }
