"""How well drift is found, how rarely it is cried for nothing, and what the monitor weighs.

`python -m benchmarks.drift --runs 200` takes 200 runs for every figure; `turnout bench` takes fewer of the long ones.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from benchmarks.figures import Bound, Figure, Topic
from benchmarks.processes import peak_mb
from bentos.family import TargetKind
from bentos.thresholds import Thresholds
from monitoring.drift.binning import Kind
from monitoring.drift.monitor import ArmMonitor, Batch, Watched
from monitoring.drift.results import Aspect, Verdict

FEATURES: Final = 20
BATCH: Final = 250
"""Decisions between two looks."""
LONG: Final = 100_000
WITHIN: Final = 2_000
WITHIN_LABELS: Final = 10_000
"""Decisions within which a shift of one kind must raise its alert, and must not raise the other's."""
RUNS: Final = 200
LONG_RUNS: Final = 30
"""Runs of 100 000 decisions that `turnout bench` takes."""
NAMES: Final = (
    "drift_detection_rate",
    "drift_delay_p95",
    "concept_only_rate",
    "concept_delay_p95",
    "covariate_only_rate",
    "drift_false_alarm_rate",
    "drift_updates_per_s",
    "monitor_memory_mb",
)


class Plant(Enum):
    """What happens to a run after its reference."""

    NOTHING = "nothing"
    FEATURE = "0.5 standard deviations in one feature"
    CONCEPT = "the outcome turns against one feature"


@dataclass(frozen=True)
class Run:
    """When each aspect was first raised, in decisions after the plant; what was raised before it, if anything."""

    raised: dict[Aspect, int]
    early: bool
    cpu_s: float


def one_run(job: tuple[int, Plant, int]) -> Run:
    """Watches one seeded run of a number of decisions after the reference and 0 to 5 000 more."""
    seed, plant, length = job
    chance = np.random.default_rng([seed, list(Plant).index(plant)])
    weights = chance.normal(0.0, 0.5, FEATURES)
    model = _fitted(weights, chance)
    # The outcomes are half chance, so the model is rightly unsure more often than a family would want.
    monitor = ArmMonitor(_watched(FEATURES), Thresholds(low_confidence_rate=0.9), seed=seed)
    start = monitor.thresholds.reference_decisions + BATCH * int(chance.integers(0, 20))
    column = int(chance.integers(FEATURES))
    raised: dict[Aspect, int] = {}
    early = False
    began = _cpu()
    for done in range(0, start + length, BATCH):
        rows = chance.standard_normal((BATCH, FEATURES), dtype=np.float32)
        truth = weights
        if done >= start and plant is Plant.FEATURE:
            rows[:, column] += 0.5
        if done >= start and plant is Plant.CONCEPT:
            # The feature that matters most now has the opposite effect; the inputs stay as they are.
            strongest = int(np.argmax(np.abs(weights)))
            truth = weights.copy()
            truth[strongest] *= -1
        observe(monitor, rows, expit(rows @ model), chance.random(BATCH) < expit(rows @ truth))
        for result in monitor.results():
            if result.verdict is Verdict.DRIFT:
                early = early or done < start
                raised.setdefault(result.aspect, done + BATCH - start)
    return Run(raised, early, (_cpu() - began) / (start + length))


def observe(
    monitor: ArmMonitor, rows: NDArray[np.float32], scores: NDArray[np.float64], outcomes: NDArray[np.bool_]
) -> None:
    """Gives decisions with their outcomes to a monitor; nothing fails."""
    none = np.zeros(len(rows), np.bool_)
    confidences = np.maximum(scores, 1 - scores)
    monitor.update(
        Batch(rows=rows, scores=scores, confidences=confidences, fallback=none, failed=none, violations=none)
    )
    monitor.label(scores, outcomes.astype(np.float64))


def memory_mb(_: int) -> float:
    """Gives the peak memory, in 10^6 bytes, of a whole process that watches 20 arms of 100 features."""
    chance = np.random.default_rng(0)
    arms = [ArmMonitor(_watched(100), Thresholds(), seed=seed) for seed in range(20)]
    # All arms are in the same phase at the same time: buffers for the reference, then the tests.
    for _batch in range(7_000 // BATCH):
        for arm in arms:
            rows = chance.standard_normal((BATCH, 100), dtype=np.float32)
            scores = expit(rows[:, 0].astype(np.float64))
            observe(arm, rows, scores, chance.random(BATCH) < scores)
    return peak_mb()


def measure(
    progress: Callable[[str], None], say: Callable[[str], None], long_runs: int = LONG_RUNS
) -> Iterator[Figure]:
    """Measures all figures; each run has its own seed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=context) as pool:
        progress(f"drift: {RUNS} runs with a shift of 0.5 standard deviations in 1 of {FEATURES} features")
        found = list(pool.map(one_run, [(seed, Plant.FEATURE, WITHIN_LABELS) for seed in range(RUNS)], chunksize=4))
        yield Figure("drift_detection_rate", _share(map(_detected, found)), "share", 0.95, Bound.AT_LEAST)
        yield Figure("drift_delay_p95", _delay(found, Aspect.FEATURE), "decisions", None)
        progress(f"drift: {RUNS} runs in which only the outcome changes")
        turned = list(pool.map(one_run, [(seed, Plant.CONCEPT, WITHIN_LABELS) for seed in range(RUNS)], chunksize=4))
        yield Figure("concept_only_rate", _share(map(_concept_only, turned)), "share", 0.95, Bound.AT_LEAST)
        yield Figure("concept_delay_p95", _delay(turned, Aspect.CONCEPT), "decisions", None)
        yield Figure("covariate_only_rate", _share(map(_covariate_only, found)), "share", 0.95, Bound.AT_LEAST)
        progress(f"drift: {long_runs} runs of {LONG} decisions without any shift")
        quiet = list(pool.map(one_run, [(seed, Plant.NOTHING, LONG) for seed in range(long_runs)]))
        alarms = _share(bool(run.raised) or run.early for run in quiet)
        yield Figure("drift_false_alarm_rate", alarms, "share", 0.05)
        yield Figure("drift_updates_per_s", 1 / statistics.median(run.cpu_s for run in quiet), "decisions/s", None)
    progress("drift: memory of 20 arms of 100 features")
    # A process of its own, so that nothing else counts.
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        yield Figure("monitor_memory_mb", pool.submit(memory_mb, 0).result(), "MB", 300)
    say(f"  false alarms over {long_runs} runs; `python -m benchmarks.drift --runs {RUNS}` takes {RUNS}")


TOPIC: Final = Topic(NAMES, measure)


def _watched(features: int) -> Watched:
    return Watched(tuple(f"x{i}" for i in range(features)), (Kind.NUMBER,) * features, TargetKind.BINARY)


def _fitted(weights: NDArray[np.float64], chance: np.random.Generator) -> NDArray[np.float64]:
    """Trains a logistic regression on 5 000 rows: the model is as wrong as one learnt from data is."""
    rows = chance.standard_normal((5_000, len(weights)))
    labels = chance.random(5_000) < expit(rows @ weights)
    fitted = np.zeros_like(weights)
    for _ in range(8):
        means = expit(rows @ fitted)
        hessian = (rows * (means * (1 - means))[:, None]).T @ rows + np.eye(len(weights))
        fitted += np.linalg.solve(hessian, rows.T @ (labels - means) - fitted)
    return fitted


_INPUTS: Final = (Aspect.FEATURE, Aspect.JOINT)


def _detected(run: Run) -> bool:
    return not run.early and run.raised.get(Aspect.FEATURE, LONG) <= WITHIN


def _concept_only(run: Run) -> bool:
    return not run.early and Aspect.CONCEPT in run.raised and not any(aspect in run.raised for aspect in _INPUTS)


def _covariate_only(run: Run) -> bool:
    return not run.early and Aspect.FEATURE in run.raised and Aspect.CONCEPT not in run.raised


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found)


def _delay(runs: Sequence[Run], aspect: Aspect) -> float:
    """Gives the 95th percentile of the delay; a run that never raised it counts as infinitely late."""
    delays = [float(run.raised.get(aspect, np.inf)) for run in runs]
    return float(np.quantile(delays, 0.95, method="higher"))


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Figures of drift detection.")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of 100 000 decisions")
    for figure in measure(print, print, parser.parse_args().runs):
        print(figure.as_object())
