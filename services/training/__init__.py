"""Trains, evaluates and packages variants.

A family names each variant's trainer as "module:function": a function from a seed to an estimator that is not fitted,
with scikit-learn's interface (`fit`, `predict_proba` or `predict`, `get_params`). It is given the engineered features
as float32 with NaN for missing, and must bear both. What can be exported: XGBoost, LightGBM, random forests and
histogram boosting, as classifiers or regressors, and voting or stacking ensembles of them.

`pipeline.train` does the rest; `search.search` looks for better hyper-parameters; `thresholds.recommend` for a cut.
"""
