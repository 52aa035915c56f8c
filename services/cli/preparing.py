"""From past decisions to packaged variants: train, evaluate, package, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from services.cli.output import number

if TYPE_CHECKING:
    from rich.table import Table

    from bentos.family import Family, Record
    from services.cli.progress import Steps
    from services.runtime.home import Home
    from services.training.evaluation import Quality
    from services.training.pipeline import TrainedVariant

_COLUMNS: Final = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auc": "AUC",
    "brier": "Brier",
    "calibration_error": "calib. error",
    "mean_absolute_error": "mean abs. error",
    "root_mean_squared_error": "RMSE",
    "r_squared": "R²",
}


def train_variants(
    family: Family, records: Iterable[Record], variants: Sequence[str] | None, seed: int, steps: Steps
) -> list[TrainedVariant]:
    """Trains the named variants, or all of the family."""
    from services.training.pipeline import train

    with steps.step("training") as step:

        def progress(what: str, done: int, total: int) -> None:
            step.doing(what)
            step.update(done, total)

        trained = train(family, records, variants=variants, seed=seed, progress=progress)
        rows = trained[0].evaluation.variant.rows
        step.note = f"{_names(one.variant for one in trained)}; tested on the {rows} newest decisions"
    return trained


def package_variants(trained: Sequence[TrainedVariant], home: Home, steps: Steps) -> dict[str, str]:
    """Packages each one as a bento; gives the exact tags by variant."""
    from services.training.packaging import package

    tags = {}
    with steps.step("packaging with BentoML") as step:
        for done, one in enumerate(trained):
            step.doing(one.variant)
            step.update(done, len(trained))
            tags[one.variant] = package(one, home)
        step.note = _names(tags)
    return tags


def _names(variants: Iterable[str]) -> str:
    return ", ".join(variants)


def best(trained: Sequence[TrainedVariant]) -> str:
    """Names the variant with the least loss on the newest decisions; the first one where nothing could be measured."""

    def loss(one: TrainedVariant) -> float:
        quality = one.evaluation.variant
        found = getattr(quality, "log_loss", None) or getattr(quality, "mean_absolute_error", None)
        return float("inf") if found is None else float(found)

    return min(trained, key=loss).variant


def evaluations(trained: Sequence[TrainedVariant]) -> dict[str, Any]:
    """Gives plain values: each variant's quality, and that of the rules and of always saying the most usual."""
    from dataclasses import asdict

    qualities = {one.variant: one.evaluation.variant for one in trained}
    qualities |= {"rules": trained[0].evaluation.rules, "majority": trained[0].evaluation.constant}
    return {name: asdict(quality) for name, quality in qualities.items()}


def evaluation_table(trained: Sequence[TrainedVariant]) -> Table:
    """Shows each variant beside the rules and the majority's answer."""
    from rich.table import Table

    rows: dict[str, Quality] = {one.variant: one.evaluation.variant for one in trained}
    rows |= {"rules": trained[0].evaluation.rules, "majority": trained[0].evaluation.constant}
    first = trained[0].evaluation.variant
    columns = [name for name in _COLUMNS if hasattr(first, name)]
    title = f"Quality on the {first.rows} newest decisions, which no training saw"
    table = Table(title=title, title_justify="left")
    table.add_column("variant", no_wrap=True)
    for name in columns:
        table.add_column(_COLUMNS[name], justify="right")
    for name, quality in rows.items():
        table.add_row(name, *(number(getattr(quality, column)) for column in columns))
    if first.note:
        table.caption = first.note
    return table


def reliability_table(one: TrainedVariant) -> Table | None:
    """Shows whether a variant's probabilities happen as often as they say; None for numbers."""
    from rich.table import Table

    bins = getattr(one.evaluation.variant, "reliability", ())
    if not bins:
        return None
    title = f"Reliability of {one.variant}: said and observed"
    table = Table("probability", title=title, title_justify="left")
    for name in ("decisions", "mean said", "observed"):
        table.add_column(name, justify="right")
    for part in bins:
        if part.rows:
            span = f"{part.low:.1f} – {part.high:.1f}"
            table.add_row(span, str(part.rows), number(part.mean_probability, 3), number(part.observed, 3))
    return table
