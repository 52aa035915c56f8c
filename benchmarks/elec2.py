"""Elec2, the electricity market of New South Wales: published drift detectors beside ours, in the published protocol.

Run as `python -m benchmarks.elec2`. Protocol of Lukats et al. (2024), doi 10.1007/s41060-024-00620-y: every half-hour
is first predicted and then learnt; a Hoeffding tree and a naive Bayes start anew whenever a detector finds a drift.
Their models without a detector stop learning early on. Accuracy is over all predictions but the first.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from monitoring.drift.binning import Kind
from monitoring.drift.classic import Classic, ClassicDetector
from monitoring.drift.concept import ConceptMonitor, ConceptSettings
from monitoring.drift.distributions import DistributionMonitor, DistributionSettings
from monitoring.drift.results import Aspect, Verdict

DATA: Final = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "elec2"
INPUTS: Final = ("date", "day", "period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
TRAINED: Final = 1_000
"""Half-hours after which the models without a detector stop learning."""
REFERENCES: Final = (100, 500)
"""Half-hours after each start from which our monitors learn what is usual: about two days, or ten."""

BLIND: Final = (48, 480)
"""Half-hours after which the models start anew without any detector, to see what a detector is worth."""


class Step(NamedTuple):
    """One half-hour: inputs, whether the price went up, and what the model had said: how likely, which of the two."""

    inputs: dict[str, float]
    up: bool
    probability: float
    said: bool


class Detector(Protocol):
    """Says after each half-hour whether something changed; it is made anew after each change."""

    def changed(self, step: Step) -> bool:
        """Takes one half-hour."""
        ...


class Never:
    """No detector."""

    def changed(self, step: Step) -> bool:
        """Sees nothing."""
        del step
        return False


class Blind:
    """Starts anew after a fixed time, whatever happens."""

    def __init__(self, every: int) -> None:
        self._left = every

    def changed(self, step: Step) -> bool:
        """Counts down."""
        del step
        self._left -= 1
        return self._left == 0


class OfConcept:
    """Our monitor of concept drift, on the model's own probabilities."""

    def __init__(self, reference: int) -> None:
        self._monitor = ConceptMonitor(ConceptSettings(alpha=0.05, tolerance=0.02, reference=reference, minimum=30))
        self._probabilities: list[float] = []
        self._outcomes: list[float] = []

    def changed(self, step: Step) -> bool:
        """Gives what it learns from a day at a time."""
        self._probabilities.append(step.probability)
        self._outcomes.append(float(step.up))
        if len(self._outcomes) < 48:
            return False
        self._monitor.update(np.array(self._probabilities), np.array(self._outcomes))
        self._probabilities, self._outcomes = [], []
        return self._monitor.results()[0].verdict is Verdict.DRIFT


class OfFeatures:
    """Our monitor of feature drift: like the published detectors it sees no labels."""

    def __init__(self, reference: int) -> None:
        settings = DistributionSettings(
            aspect=Aspect.FEATURE, effect=0.05, alpha=0.05, reference=reference, minimum=30, seed=1
        )
        # The date only grows; every detector of distributions would report it for ever.
        self._names = INPUTS[1:]
        self._monitor = DistributionMonitor(self._names, (Kind.NUMBER,) * len(self._names), settings)
        self._rows: list[list[float]] = []

    def changed(self, step: Step) -> bool:
        """Gives what it learns from a day at a time."""
        self._rows.append([step.inputs[name] for name in self._names])
        if len(self._rows) < 48:
            return False
        self._monitor.update(np.array(self._rows, np.float32))
        self._rows = []
        return any(result.verdict is Verdict.DRIFT for result in self._monitor.results())


class OfErrors:
    """ADWIN or Page-Hinkley on the model's errors."""

    def __init__(self, kind: Classic) -> None:
        self._detector = ClassicDetector(kind)

    def changed(self, step: Step) -> bool:
        """Takes one error."""
        wrong = step.said != step.up
        return self._detector.update(np.array([float(wrong)])) > 0


def prequential(
    rows: list[tuple[dict[str, float], bool]], model: Callable[[], Any], detector: Callable[[], Detector], learns: int
) -> tuple[float, int]:
    """Gives (accuracy, drifts): each half-hour is predicted, and learnt while its number is under `learns`."""
    current, watching = model(), detector()
    right = drifts = 0
    for number, (inputs, up) in enumerate(rows):
        shares = current.predict_proba_one(inputs)
        probability = min(1.0, float(shares.get(True, 0.0)) / (sum(shares.values()) or 1.0))
        said = bool(current.predict_one(inputs))
        right += number > 0 and said == up
        if watching.changed(Step(inputs, up, probability, said)):
            drifts += 1
            current, watching = model(), detector()
        if number < learns:
            current.learn_one(inputs, up)
    return right / (len(rows) - 1), drifts


def read(folder: Path) -> list[tuple[dict[str, float], bool]]:
    """Reads the half-hours in their order."""
    with gzip.open(folder / "electricity_normalized.csv.gz", "rt") as text:
        return [({name: float(row[name]) for name in INPUTS}, row["class"] == "UP") for row in csv.DictReader(text)]


def published(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Gives (detector, best accuracy of the Hoeffding tree, of naive Bayes) of each published detector."""
    with (folder / "published_lukats2024_summary.csv").open() as text:
        for row in csv.DictReader(text):
            if row["stream"] == "Elec2":
                yield row["detector"], row["max acc (ht-dd)"], row["max acc (nb-dd)"]


def main() -> int:
    """Prints the table."""
    if not DATA.is_dir():
        print("skipped: the Elec2 data are not here (a folder shared/data/elec2 beside the repository)")
        return 0
    from river.naive_bayes import GaussianNB
    from river.tree import HoeffdingTreeClassifier

    rows = read(DATA)
    last = [up for _, up in rows]
    same = sum(a == b for a, b in itertools.pairwise(last)) / (len(rows) - 1)
    print(f"{'detector':44} {'Hoeffding tree':>20} {'naive Bayes':>20}")
    print(f"{'the class of the half-hour before (no model)':44} {same:20.4f} {same:20.4f}")
    for name, tree, bayes in published(DATA):
        print(f"{'published, best run: ' + name:44} {float(tree):20.4f} {float(bayes):20.4f}")
    ours: tuple[tuple[str, Callable[[], Detector], int], ...] = (
        ("measured: none, learning stops at 1 000", Never, TRAINED),
        ("measured: none, learning goes on", Never, len(rows)),
        *((f"measured: none, anew after every {n}", partial(Blind, n), len(rows)) for n in BLIND),
        *((f"measured: our feature drift, reference {n}", partial(OfFeatures, n), len(rows)) for n in REFERENCES),
        *((f"measured: our concept drift, reference {n}", partial(OfConcept, n), len(rows)) for n in REFERENCES),
        ("measured: ADWIN on errors", lambda: OfErrors(Classic.ADWIN), len(rows)),
        ("measured: Page-Hinkley on errors", lambda: OfErrors(Classic.PAGE_HINKLEY), len(rows)),
    )
    for name, detector, learns in ours:
        cells = [prequential(rows, model, detector, learns) for model in (HoeffdingTreeClassifier, GaussianNB)]
        print(f"{name:44} " + " ".join(f"{accuracy:11.4f} ({drifts:4} d)" for accuracy, drifts in cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
