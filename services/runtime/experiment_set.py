"""What experiments and layers must keep to together: no cycle, no overlap, nothing that can never be reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from services.runtime.experiment import Experiment, Layer, LayerSlice

MAX_NESTING: Final = 16
"""Layers within one another: a unit is asked at each of them, and each change looks at all chains (2 000 took 36 s)."""


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
    """The set is wrong; `path` leads to the field at fault, and `also` to others that break the rule with it."""

    def __init__(self, path: tuple[str, ...], message: str, also: Sequence[tuple[str, ...]] = ()) -> None:
        super().__init__(message)
        self.path = path
        self.also = tuple(also)

    def at(self, kind: str, name: str) -> tuple[str, ...]:
        """Gives the path to the field of one thing, when it is among those at fault, as what was changed last is."""
        return next((path for path in (self.path, *self.also) if path[:2] == (kind, name)), self.path)


def precedence(experiment: Experiment) -> tuple[bool, int, str]:
    """Sorts the experiments of a family into the order in which they are asked."""
    return (experiment.tenant is None, -experiment.priority, experiment.name)


def check_set(experiments: Mapping[str, Experiment], layers: Mapping[str, Layer]) -> None:
    """Checks a whole set.

    Raises:
        SetError: a layer is unknown or within itself, slices overlap, or an experiment can never be reached.
    """
    sliced: dict[str, list[_Slice]] = {}
    for name, layer in layers.items():
        _check_chain(name, layers)
        if layer.within is not None:
            sliced.setdefault(layer.within.layer, []).append(_Slice(layer.within, "layers", name))
    for experiment in experiments.values():
        if experiment.layer is not None:
            if experiment.layer.layer not in layers:
                message = f"there is no layer {experiment.layer.layer!r}"
                raise SetError(("experiments", experiment.name, "layer"), message)
            sliced.setdefault(experiment.layer.layer, []).append(
                _Slice(experiment.layer, "experiments", experiment.name)
            )
    for name, sharing in sliced.items():
        _check_slices(name, sharing)
    _check_reachable(experiments)


class _Slice(NamedTuple):
    """Who has a slice of a layer: an experiment, or a layer within it."""

    given: LayerSlice
    kind: str
    name: str

    @property
    def path(self) -> tuple[str, ...]:
        return (self.kind, self.name, "layer" if self.kind == "experiments" else "within")

    def __str__(self) -> str:
        return f"{self.given.start} to {self.given.end - 1} of {self.kind[:-1]} {self.name!r}"


def _check_chain(name: str, layers: Mapping[str, Layer]) -> None:
    chain = [name]
    while (within := layers[chain[-1]].within) is not None:
        if within.layer not in layers:
            raise SetError(("layers", chain[-1], "within"), f"there is no layer {within.layer!r}")
        chain.append(within.layer)
        if within.layer in chain[:-1]:
            cycle = chain[chain.index(within.layer) : -1]
            start = cycle.index(min(cycle))
            cycle = cycle[start:] + cycle[:start]
            message = f"a layer is within itself: {' in '.join(map(repr, (*cycle, cycle[0])))}"
            first, *others = (("layers", one, "within") for one in cycle)
            raise SetError(first, message, others)
        if len(chain) > MAX_NESTING:
            raise SetError(("layers", name, "within"), f"{name!r} is over {MAX_NESTING} layers deep")


def _check_slices(layer: str, sharing: list[_Slice]) -> None:
    """Keeps experiments apart from each other and from the layers within their layer.

    Layers may share a slice with each other: each deals its units anew.
    """
    reaching: dict[bool, _Slice] = {}
    for one in sorted(sharing, key=lambda one: (one.given.start, one.given.end, one.kind, one.name)):
        alone = one.kind == "experiments"
        for other in reaching.values():
            if one.given.start < other.given.end and (alone or other.kind == "experiments"):
                message = f"slices of layer {layer!r} overlap: {other}, {one}"
                raise SetError(one.path, message, (other.path,))
        if alone not in reaching or one.given.end > reaching[alone].given.end:
            reaching[alone] = one


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
