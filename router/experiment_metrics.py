"""Prometheus metrics about experiments. Labels come from configuration only; those of experiments that are gone go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from router.strategies.family import FamilyExperiments
from services.runtime.experiment import Experiment

_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class ExperimentMetrics:
    """What is applied, conditions that could not be evaluated, and shadows, in a registry that is an argument."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.version = Gauge(
            "turnout_experiment_set_version",
            "Version of the hub's experiments that is applied; 0 while turnout.yaml's own are.",
            registry=registry,
        )
        self.silence = Gauge(
            "turnout_experiment_set_silence_seconds",
            "Time since the hub was last heard on the watch; NaN when it never was.",
            registry=registry,
        )
        self._revision = Gauge(
            "turnout_experiment_revision",
            "Revision of each experiment that is applied.",
            ("family", "experiment"),
            registry=registry,
        )
        self._sets = Counter(
            "turnout_experiment_sets", "Sets of experiments from the hub, by result.", ("result",), registry=registry
        )
        self._unevaluable = Counter(
            "turnout_targeting_errors",
            "Conditions that could not be evaluated: the experiment was passed over.",
            ("family", "experiment"),
            registry=registry,
        )
        self._shadow_rows = Counter(
            "turnout_shadow_rows",
            "Rows that were to be copied to a shadow: agrees, differs, failed, dropped; and those left unrecorded.",
            ("family", "variant", "result"),
            registry=registry,
        )
        self._shadow_latency = Histogram(
            "turnout_shadow_duration_seconds",
            "Time that a shadow took to answer.",
            ("family", "variant"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._present: set[tuple[str, str]] = set()
        self._failed: set[tuple[str, str]] = set()

    def applied(self, families: Iterable[FamilyExperiments]) -> set[tuple[str, str]]:
        """Notes the revisions that are applied now; forgets experiments that are gone and gives them."""
        present = set()
        for family in families:
            for name, snapshot in family.experiments.items():
                present.add((family.family, name))
                self._revision.labels(family.family, name).set(snapshot.experiment.revision)
        gone = self._present - present
        for labels in gone:
            self._revision.remove(*labels)
        for labels in self._failed - present:
            self._unevaluable.remove(*labels)
        self._failed &= present
        self._present = present
        return gone

    def sets(self, *, applied: bool) -> None:
        """Counts a set of the hub."""
        self._sets.labels("applied" if applied else "refused").inc()

    def unevaluable(self, experiment: Experiment) -> None:
        """Counts a condition that could not be evaluated."""
        self._failed.add((experiment.family, experiment.name))
        self._unevaluable.labels(experiment.family, experiment.name).inc()

    def shadowed(self, family: str, variant: str, result: str, rows: int) -> None:
        """Counts rows of a shadow."""
        self._shadow_rows.labels(family, variant, result).inc(rows)

    def shadow_latency(self, family: str, variant: str, seconds: float) -> None:
        """Notes the time that a shadow took."""
        self._shadow_latency.labels(family, variant).observe(seconds)
