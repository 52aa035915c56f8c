"""Training from records to described variants, and the search for hyper-parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from bentos.dispatch import FAMILY
from bentos.family import Record
from bentos.manifest import MANIFEST, read
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from services.training.evaluation import Binary
from services.training.inference import Graph
from services.training.pipeline import TrainedVariant, train
from services.training.search import search

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _records(rows: int, seed: int = 0) -> list[Record]:
    """Decisions whose success hangs on the expected time, with a third of the times unknown."""
    random = np.random.default_rng(seed)
    records = []
    for number in range(rows):
        minutes = float(random.uniform(0.0, 20.0))
        success = float(random.random() < (0.95 if minutes < 8.0 else 0.2))
        features: dict[str, float | str | bool] = {"severity": float(random.integers(1, 6)), "call_type": "medical"}
        if random.random() < 0.67:
            features["response_time_min"] = minutes
        records.append(Record(1e9 + number * 60.0, f"d{number}", f"u{number}", "", features, success))
    return records


def _train(records: list[Record], *variants: str, seed: int = 3) -> list[TrainedVariant]:
    return train(FAMILY, records, variants=variants, seed=seed, clock=lambda: NOW)


@pytest.fixture(scope="module")
def trained() -> TrainedVariant:
    """XGBoost, learnt from 800 decisions."""
    (variant,) = _train(_records(800), "xgboost")
    return variant


def test_a_trained_variant_beats_rules_and_constant(trained: TrainedVariant) -> None:
    """Where there is something to learn, the newest decisions are answered better than by rules or by the majority."""
    quality, rules, constant = trained.evaluation.variant, trained.evaluation.rules, trained.evaluation.constant
    assert isinstance(quality, Binary)
    assert isinstance(rules, Binary)
    assert isinstance(constant, Binary)
    assert quality.log_loss is not None
    assert rules.log_loss is not None
    assert constant.log_loss is not None
    assert quality.rows == 120
    assert quality.log_loss < min(rules.log_loss, constant.log_loss)
    assert trained.evaluation.onnx_difference < 1e-5


def test_importance_finds_what_decides(trained: TrainedVariant) -> None:
    """Shuffling the expected time hurts most; a feature that nobody ever reported does not matter at all."""
    importance = {name: rise for name, rise in trained.evaluation.importance.items() if rise is not None}
    assert max(importance, key=lambda name: importance[name]) == "response_time_min"
    assert importance["patient_age"] == 0.0


def test_the_manifest_describes_the_graph(trained: TrainedVariant) -> None:
    """Digest, features, provenance and background are those of this training, and the file can be read back."""
    manifest = trained.manifest
    assert manifest.sha256 == hashlib.sha256(trained.onnx).hexdigest()
    assert manifest.features == FAMILY.schema.names
    assert manifest.schema_digest == FAMILY.schema.digest
    assert 1 <= len(manifest.background) <= 16
    assert {len(row) for row in manifest.background} == {len(FAMILY.schema)}
    assert manifest.provenance["rows"] == {"train": 560, "calibration": 120, "test": 120, "skipped": 0}
    assert manifest.provenance["created_at"] == "2026-01-02T03:04:05+00:00"
    assert manifest.provenance["hyper_parameters"]["n_estimators"] == 200
    quality = trained.evaluation.variant
    assert isinstance(quality, Binary)
    assert manifest.metrics["auc"] == quality.auc
    assert 0.0 <= manifest.metrics["recommended_threshold"]["threshold"] <= 1.0


def test_the_manifest_is_a_file_that_reads_back(trained: TrainedVariant, tmp_path: Path) -> None:
    """What a packager writes is what a server reads, and it is strict JSON."""
    text = trained.manifest.dumps()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (tmp_path / MANIFEST).write_text(text)
    assert read(tmp_path).dumps() == text


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Records, seed and clock decide everything; another seed gives another forest."""
    records = _records(200)
    first, again = _train(records, "random_forest"), _train(records, "random_forest")
    other = _train(records, "random_forest", seed=4)
    assert first[0].onnx == again[0].onnx
    assert first[0].manifest.dumps() == again[0].manifest.dumps()
    assert first[0].onnx != other[0].onnx


def test_variants_come_in_the_familys_order() -> None:
    """Whatever order they are named in, and each with its own graph that answers probabilities."""
    variants = _train(_records(300), "voting", "lightgbm")
    assert [variant.variant for variant in variants] == ["lightgbm", "voting"]
    rows = np.full((3, len(FAMILY.schema)), np.nan, dtype=np.float32)
    for variant in variants:
        assert ((Graph(variant.onnx).run(rows) >= 0.0) & (Graph(variant.onnx).run(rows) <= 1.0)).all()


def test_progress_names_each_step() -> None:
    """The caller hears what is being done, from the first step to the last."""
    heard: list[tuple[str, int, int]] = []
    train(FAMILY, _records(200), variants=["lightgbm"], seed=1, progress=lambda *step: heard.append(step))
    assert heard == [("reading decisions", 0, 2), ("training lightgbm", 1, 2), ("trained", 2, 2)]


def test_an_unknown_variant_is_refused() -> None:
    """The sentence names the variants that there are."""
    with pytest.raises(NotFound, match="no trained variant 'perceptron'; it has: xgboost"):
        _train(_records(30), "perceptron")


def test_too_few_of_one_outcome_is_refused() -> None:
    """Successes alone teach nothing about failure."""
    records = [record._replace(outcome=1.0) for record in _records(100)]
    with pytest.raises(FailedPrecondition, match="at least 5 decisions of each outcome"):
        _train(records, "xgboost")


def test_a_fold_without_both_outcomes_is_refused() -> None:
    """All failures in the first fold leave the stacking ensemble without an example: refused in one sentence."""
    records = [record._replace(outcome=float(number >= 7)) for number, record in enumerate(_records(40))]
    with pytest.raises(FailedPrecondition, match="stacking cannot be trained on these 28 decisions"):
        _train(records, "stacking")


def test_one_class_in_the_newest_part_is_not_enough_data() -> None:
    """The variant is trained, but its metrics say that there was not enough data instead of a number."""
    records = _records(200)
    records[150:] = [record._replace(outcome=1.0) for record in records[150:]]
    (variant,) = _train(records, "lightgbm")
    quality = variant.evaluation.variant
    assert isinstance(quality, Binary)
    assert quality.auc is None
    assert quality.note.startswith("not enough data")


def test_a_search_is_repeatable_and_never_worse_than_what_is_declared() -> None:
    """The declared parameters are the first trial; the same seed finds the same best."""
    records = _records(250)
    found = search(FAMILY, records, "lightgbm", trials=3, seed=1)
    assert found == search(FAMILY, records, "lightgbm", trials=3, seed=1)
    assert found.trials == 3
    assert found.loss <= found.declared_loss
    assert bool(found.parameters) == (found.loss < found.declared_loss)


def test_a_search_refuses_what_it_cannot_do() -> None:
    """An ensemble, an unknown variant and a number of trials out of bounds each get one sentence."""
    with pytest.raises(Unimplemented, match="search the members of an ensemble"):
        search(FAMILY, _records(50), "voting", trials=2, seed=1)
    with pytest.raises(NotFound, match="no trained variant"):
        search(FAMILY, _records(50), "nothing", trials=2, seed=1)
    with pytest.raises(InvalidArgument, match="from 1 to 1000, not 0"):
        search(FAMILY, _records(50), "xgboost", trials=0, seed=1)


def test_rows_that_the_reader_skipped_are_told() -> None:
    """A reader that counts what it left out has its count, as it stands after the last record, in the manifest."""

    class Reader(list[Record]):
        skipped = 0

        def __iter__(self) -> Iterator[Record]:
            for record in super().__iter__():
                self.skipped += 1
                yield record

    (variant,) = train(FAMILY, Reader(_records(200)), variants=["lightgbm"], seed=1)
    assert variant.manifest.provenance["rows"]["skipped"] == 200
