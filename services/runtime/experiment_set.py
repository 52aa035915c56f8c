"""What experiments and layers must keep to together: no cycle, no overlap, nothing that can never be reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from services.runtime.experiment import Experiment, Layer, LayerSlice


@dataclass(frozen=True, slots=True)
class ExperimentSet:
    """All experiments and layers, by name, as of a version: what routers decide by. Swapped whole, never changed."""

    version: int = 0
    """Grows by one with each change; 0 for the empty set before the first one."""
    experiments: Mapping[str, Experiment] = field(default_factory=dict)
    layers: Mapping[str, Layer] = field(default_factory=dict)
    origin: str = ""
    """Database that the versions count in."""


class SetError(ValueError):
    """The set is wrong; `path` leads to the field at fault."""

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


def precedence(experiment: Experiment) -> tuple[bool, int, str]:
    """Sorts the experiments of a family into the order in which they are asked."""
    return (experiment.tenant is None, -experiment.priority, experiment.name)


def check_set(experiments: Mapping[str, Experiment], layers: Mapping[str, Layer]) -> None:
    """Checks a whole set.

    Raises:
        SetError: a layer is unknown or within itself, slices overlap, or an experiment can never be reached.
    """
    for name, layer in layers.items():
        _check_chain(name, layer, layers)
    sliced: dict[str, list[Experiment]] = {}
    for experiment in experiments.values():
        if experiment.layer is not None:
            if experiment.layer.layer not in layers:
                message = f"there is no layer {experiment.layer.layer!r}"
                raise SetError(("experiments", experiment.name, "layer"), message)
            sliced.setdefault(experiment.layer.layer, []).append(experiment)
    for name, sharing in sliced.items():
        _check_slices(name, sharing)
    _check_reachable(experiments)


def _check_chain(name: str, layer: Layer, layers: Mapping[str, Layer]) -> None:
    seen = {name}
    within: LayerSlice | None = layer.within
    while within is not None:
        if within.layer not in layers:
            raise SetError(("layers", name, "within"), f"there is no layer {within.layer!r}")
        if within.layer in seen:
            raise SetError(("layers", name, "within"), f"layer {name!r} is within itself")
        seen.add(within.layer)
        within = layers[within.layer].within


def _check_slices(layer: str, sharing: list[Experiment]) -> None:
    in_order = sorted((e.layer.start, e.layer.end, e.name) for e in sharing if e.layer is not None)
    for (_, end, first), (start, _, second) in pairwise(in_order):
        if start < end:
            message = f"its slice of layer {layer!r} overlaps that of {first!r}"
            raise SetError(("experiments", second, "layer"), message)


def _check_reachable(experiments: Mapping[str, Experiment]) -> None:
    takes_all: dict[tuple[str, str | None], str] = {}
    for experiment in sorted(experiments.values(), key=precedence):
        key = (experiment.family, experiment.tenant)
        if key in takes_all:
            message = (
                f"{takes_all[key]!r} takes every decision before it: "
                "give that one a tenant, a condition, a layer, or a lower priority"
            )
            raise SetError(("experiments", experiment.name), message)
        if not experiment.when and experiment.layer is None:
            takes_all[key] = experiment.name
