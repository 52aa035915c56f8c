"""Trains a family's variants on past decisions: encode, split by time, fit, calibrate, export, evaluate, describe.

Everything random comes from `seed`, so that the same records give the same graphs, byte by byte. What is measured is
the exported graph, run as a server runs it, on decisions newer than all that were learned from.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # carries no types

from bentos.family import Family, Record, TargetKind, Variant
from bentos.manifest import Manifest
from services.runtime.errors import FailedPrecondition, NotFound
from services.training import calibration as platt
from services.training.dataset import Dataset, Matrix, Vector, encode, split_by_time
from services.training.engineering import Engineering
from services.training.evaluation import Evaluation, Quality, binary, log_loss, numeric, shuffled
from services.training.export import INPUT, OUTPUT, to_onnx
from services.training.inference import Graph
from services.training.provenance import background, bounds, hyper_parameters, provenance
from services.training.thresholds import BestF1, recommend

MODEL_FILE: Final = "model.onnx"
FEWEST_OF_A_CLASS: Final = 5
"""Rows of each outcome that the oldest part must hold."""
_IMPORTANCE_ROWS: Final = 2000
_LARGEST_DIFFERENCE: Final = 1e-4

TrainingProgress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedVariant:
    """A variant ready to be packaged: its graph, all that is known about it, and how good it is."""

    variant: str
    onnx: bytes
    manifest: Manifest
    evaluation: Evaluation


def train(
    family: Family,
    records: Iterable[Record],
    *,
    variants: Sequence[str] | None = None,
    seed: int,
    progress: TrainingProgress = lambda _what, _done, _steps: None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[TrainedVariant]:
    """Trains the named variants, or all, in the family's order.

    Raises:
        InvalidArgument: a record does not fit the family.
        NotFound: the family has no variant of such a name.
        FailedPrecondition: there is too little to learn from, or a learner refuses the data.
    """
    chosen = _chosen(family, variants)
    progress("reading decisions", 0, len(chosen) + 1)
    data = encode(family, records)
    # A reader that leaves out unusable rows counts them; a plain list of records has none.
    session = _Session(family, data, seed=seed, skipped=getattr(records, "skipped", 0), now=clock())
    trained = []
    for step, variant in enumerate(chosen, start=1):
        progress(f"training {variant.name}", step, len(chosen) + 1)
        trained.append(session.train(variant))
    progress("trained", len(chosen) + 1, len(chosen) + 1)
    return trained


class _Session:
    """What all variants of one training share."""

    def __init__(self, family: Family, data: Dataset, *, seed: int, skipped: int, now: datetime) -> None:
        split = split_by_time(data)
        _enough(family, split.train)
        self._family = family
        self._split = split
        self._seed = seed
        self._engineering = Engineering(family)
        self._learnt = self._engineering.compute(split.train.features)
        self._binary = family.target.kind is TargetKind.BINARY
        self._rules = self._quality(rules_answers(family, split.test.features))
        usual = float(split.train.outcomes.mean() if self._binary else np.median(split.train.outcomes))
        self._constant = self._quality(np.full(len(split.test), usual))
        self._provenance = provenance(family, data, split, seed=seed, skipped=skipped, now=now)

    def train(self, variant: Variant) -> TrainedVariant:
        estimator = load_trainer(variant)(self._seed)
        fit(variant, estimator, self._learnt, self._outcomes())
        calibrated = self._calibrate(estimator)
        width = len(self._family.schema)
        onnx = to_onnx(estimator, self._engineering, width, calibrated)
        graph = Graph(onnx)
        evaluation = self._evaluate(estimator, calibrated, graph)
        if not evaluation.onnx_difference <= _LARGEST_DIFFERENCE:
            raise FailedPrecondition(
                "variant", f"the exported {variant.name} strays by {evaluation.onnx_difference:.2g} from the model"
            )
        manifest = self._manifest(variant, onnx, evaluation, self._parameters(estimator, calibrated), graph)
        return TrainedVariant(variant=variant.name, onnx=onnx, manifest=manifest, evaluation=evaluation)

    def _outcomes(self) -> Any:
        outcomes = self._split.train.outcomes
        return outcomes.astype(np.int64) if self._binary else outcomes

    def _calibrate(self, estimator: Any) -> platt.Calibration | None:
        if not self._binary:
            return None
        held_out = self._split.calibration
        if len(held_out) == 0:
            return platt.IDENTITY
        answers = self._native(estimator, None, held_out.features)
        return platt.choose(answers, held_out.outcomes)

    def _native(self, estimator: Any, calibrated: platt.Calibration | None, raw: Matrix) -> Vector:
        answers = answers_of(estimator, self._engineering.compute(raw))
        return calibrated.apply(answers) if calibrated is not None else answers

    def _evaluate(self, estimator: Any, calibrated: platt.Calibration | None, graph: Graph) -> Evaluation:
        test = self._split.test
        answers = graph.run(test.features)
        native = self._native(estimator, calibrated, test.features) if len(test) else answers
        return Evaluation(
            variant=self._quality(answers),
            rules=self._rules,
            constant=self._constant,
            onnx_difference=float(np.abs(answers - native).max(initial=0.0)),
            importance=self._importance(graph),
        )

    def _quality(self, answers: Vector) -> Quality:
        outcomes = self._split.test.outcomes
        return binary(answers, outcomes) if self._binary else numeric(answers, outcomes)

    def _importance(self, graph: Graph) -> dict[str, float | None]:
        random = np.random.default_rng(self._seed)
        test, names = self._split.test, self._family.schema.names
        if len(test) == 0:
            return dict.fromkeys(names)
        rows = np.sort(random.permutation(len(test))[:_IMPORTANCE_ROWS])
        features, outcomes = test.features[rows], test.outcomes[rows]

        def loss(raw: Matrix) -> float:
            answers = graph.run(raw)
            return log_loss(answers, outcomes) if self._binary else float(np.abs(answers - outcomes).mean())

        usual = loss(features)
        return {name: loss(shuffled(features, column, random)) - usual for column, name in enumerate(names)}

    def _parameters(self, estimator: Any, calibrated: platt.Calibration | None) -> dict[str, Any]:
        return {**hyper_parameters(estimator), "calibration": calibrated and asdict(calibrated)}

    def _manifest(
        self, variant: Variant, onnx: bytes, evaluation: Evaluation, parameters: dict[str, Any], graph: Graph
    ) -> Manifest:
        family, held_out = self._family, self._split.calibration
        metrics = evaluation.as_dict()
        if self._binary:
            answers = graph.run(held_out.features)
            metrics["recommended_threshold"] = asdict(recommend(answers, held_out.outcomes, BestF1()))
        return Manifest(
            family=family.name,
            variant=variant.name,
            features=family.schema.names,
            outputs=(family.target.name,),
            schema_digest=family.schema.digest,
            input_name=INPUT,
            output_name=OUTPUT,
            model_file=MODEL_FILE,
            sha256=hashlib.sha256(onnx).hexdigest(),
            background=background(self._split.train.features, self._seed),
            metrics=metrics,
            bounds=bounds(self._split.train.features),
            provenance={**self._provenance, "hyper_parameters": parameters},
        )


def fit(variant: Variant, estimator: Any, engineered: Matrix, outcomes: Any) -> None:
    """Fits an estimator in place.

    Raises:
        FailedPrecondition: the learner refuses the data, for example because a fold holds one class only.
    """
    try:
        with _one_thread():
            estimator.fit(engineered, outcomes)
    except ValueError as error:
        raise FailedPrecondition(
            "records", f"{variant.name} cannot be trained on these {len(outcomes)} decisions; it needs more of them"
        ) from error


def answers_of(estimator: Any, engineered: Matrix) -> Vector:
    """Gives a fitted native estimator's answers: probabilities of success, or numbers."""
    with _one_thread():
        if hasattr(estimator, "predict_proba"):
            return np.asarray(estimator.predict_proba(engineered)[:, 1], dtype=np.float64)
        return np.asarray(estimator.predict(engineered), dtype=np.float64)


def rules_answers(family: Family, features: Matrix) -> Vector:
    """Gives what the family's rules say to each row."""
    return np.array([family.rules(family.row(*row)).value for row in features.tolist()], dtype=np.float64)


def load_trainer(variant: Variant) -> Callable[[int], Any]:
    """Imports a variant's trainer: a function from a seed to an estimator that is not fitted yet."""
    module, _, name = variant.trainer.partition(":")
    trainer: Callable[[int], Any] = getattr(importlib.import_module(module), name)
    return trainer


def _chosen(family: Family, names: Sequence[str] | None) -> tuple[Variant, ...]:
    known = [variant.name for variant in family.variants]
    for name in names or ():
        if name not in known:
            raise NotFound(
                "variants", f"family {family.name!r} has no trained variant {name[:64]!r}; it has: {', '.join(known)}"
            )
    return tuple(variant for variant in family.variants if names is None or variant.name in names)


def _enough(family: Family, oldest: Dataset) -> None:
    if family.target.kind is not TargetKind.BINARY:
        return
    positives = int(oldest.outcomes.sum())
    if min(positives, len(oldest) - positives) < FEWEST_OF_A_CLASS:
        raise FailedPrecondition(
            "records",
            f"training needs at least {FEWEST_OF_A_CLASS} decisions of each outcome among the oldest {len(oldest)}; "
            f"there are {positives} with {family.target.name} and {len(oldest) - positives} without",
        )


def _one_thread() -> Any:
    """Keeps OpenMP to one thread: threads spin while they wait, and with a busy core two were ten times slower."""
    return threadpool_limits(limits=1, user_api="openmp")
