"""turnout.yaml as a declaration: what it says anew is taken over, what operators changed since stays. Pure.

The file and the operators steer the same experiments. So the file's definition of a name is taken over when it
differs from what the file said before, and never else: a file that nobody touched undoes nobody's work. A name that
left the file is ended only when its newest revision came from the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from services.control.plans import (
    Author,
    ExperimentChange,
    LayerChange,
    Plan,
    State,
    next_layer_revision,
    next_revision,
)
from services.control.rows import Kind, Newest, layer_text
from services.runtime.experiment import Experiment, Layer

FILE: Final = "turnout.yaml"
"""Who made a revision that came from the file."""
Texts = dict[tuple[str, str], str]


def declared_texts(experiments: Mapping[str, Experiment], layers: Mapping[str, Layer]) -> Texts:
    """Gives what a file says, by kind and name; the revisions that it may name are not looked at."""
    texts = {("experiment", name): _text(one) for name, one in experiments.items()}
    return texts | {("layer", name): layer_text(layer) for name, layer in layers.items()}


def plan_declaration(
    state: State,
    said: Texts,
    experiments: Mapping[str, Experiment],
    layers: Mapping[str, Layer],
    newest_of: Callable[[Kind, str], Newest],
) -> Plan:
    """Plans what a file that was read changes.

    Args:
        state: what runs.
        said: what the file said when it was last taken over.
        experiments: what it says now, by name.
        layers: what it says now, by name.
        newest_of: gives a name's newest revision.
    """
    author = Author(FILE, "")
    says = declared_texts(experiments, layers)
    changed = [key for key, text in says.items() if said.get(key) != text]
    gone = said.keys() - says.keys()
    planned: list[ExperimentChange | None] = []
    for kind, name in changed:
        if kind == "experiment":
            # A file from before there was a history may count its revisions itself: none is used twice.
            newest = max(newest_of("experiment", name).revision, experiments[name].revision - 1)
            present = state.set.experiments.get(name)
            planned.append(next_revision(present, experiments[name], newest, author, name=name))
    for kind, name in sorted(gone):
        present = state.set.experiments.get(name)
        if kind == "experiment" and present is not None and newest_of("experiment", name).who == FILE:
            planned.append(next_revision(present, None, present.revision, author, name=name))
    ends = [change for change in planned if change is not None]
    planned_layers: list[LayerChange | None] = []
    for kind, name in changed:
        if kind == "layer":
            newest = newest_of("layer", name).revision
            planned_layers.append(
                next_layer_revision(state.set.layers.get(name), layers[name], newest, author, name=name)
            )
    ours = {name for kind, name in gone if kind == "layer" and newest_of("layer", name).who == FILE}
    for name in sorted(_unused(ours & state.set.layers.keys(), state, ends, layers)):
        newest = state.layer_revisions[name]
        planned_layers.append(next_layer_revision(state.set.layers[name], None, newest, author, name=name))
    return Plan(ends, [one for one in planned_layers if one is not None])


def _unused(names: set[str], state: State, changes: list[ExperimentChange], declared: Mapping[str, Layer]) -> set[str]:
    """Gives those of the layers that nothing which stays is within."""
    after = dict(state.set.experiments) | {change.name: change.after for change in changes}
    layers = {**state.set.layers, **declared}
    needed = {experiment.layer.layer for experiment in after.values() if experiment and experiment.layer}
    waiting = [name for name in layers if name in needed or name not in names]
    while waiting:
        name = waiting.pop()
        names = names - {name}
        within = layers[name].within
        if within is not None and within.layer in names:
            waiting.append(within.layer)
    return names


def _text(experiment: Experiment) -> str:
    return experiment.model_copy(update={"revision": 1}).canonical_json()
