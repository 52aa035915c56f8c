"""The dispatch family: which unit to send to an emergency, and how likely the assignment succeeds."""

from __future__ import annotations

from typing import Final

from bentos.dispatch.features import ENGINEERED, SCHEMA, DispatchRow
from bentos.dispatch.records import read_records
from bentos.dispatch.rules import VERSION, rules
from bentos.family import Family, Level, Target, TargetKind, Variant
from bentos.thresholds import Thresholds

_VARIANTS: Final = (
    Variant(
        name="xgboost",
        summary="XGBoost, 200 trees of depth 6: the base model.",
        trainer="bentos.dispatch.variants:xgboost",
    ),
    Variant(name="lightgbm", summary="LightGBM, grown leaf by leaf.", trainer="bentos.dispatch.variants:lightgbm"),
    Variant(
        name="random_forest",
        summary="A random forest of bounded size.",
        trainer="bentos.dispatch.variants:random_forest",
    ),
    Variant(
        name="gradient_boosting",
        summary="Gradient boosting over binned features.",
        trainer="bentos.dispatch.variants:gradient_boosting",
    ),
    Variant(
        name="voting",
        summary="Weighted mean (3:3:1:2) of XGBoost, LightGBM, the forest and gradient boosting.",
        trainer="bentos.dispatch.variants:voting",
    ),
    Variant(
        name="stacking",
        summary="Logistic regression over the four learners' out-of-fold answers.",
        trainer="bentos.dispatch.variants:stacking",
    ),
)


def _confidence(value: float) -> float:
    return value if value >= 0.5 else 1.0 - value


FAMILY: Final = Family(
    name="dispatch",
    summary="Which unit to send to an emergency, and how likely the assignment succeeds.",
    schema=SCHEMA,
    target=Target(
        name="success",
        kind=TargetKind.BINARY,
        unit="probability",
        low=0.0,
        high=1.0,
        description="The unit is at the incident within its target time, with a crew that fits the call.",
    ),
    row=DispatchRow,
    rules=rules,
    rules_version=VERSION,
    variants=_VARIANTS,
    engineered=ENGINEERED,
    critical=True,
    levels=(Level("low", 0.0), Level("medium", 0.5), Level("high", 0.8)),
    confidence=_confidence,
    confidence_means="Calibrated probability that the predicted label (success from 0.5 on) is right: max(p, 1 - p).",
    read_records=read_records,
    thresholds=Thresholds(
        null_rate=0.02,
        outlier_rate=0.03,
        schema_violation_rate=0.0,
        fallback_rate=0.05,
        low_confidence_rate=0.05,
        accuracy=0.90,
    ),
)
