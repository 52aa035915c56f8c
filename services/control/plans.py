"""What a change makes of the whole set, before anything is stored. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.control.changes import describe_changes, describe_layer_changes
from services.runtime.config import MAX_EXPERIMENTS
from services.runtime.errors import FailedPrecondition, InvalidArgument
from services.runtime.experiment import Experiment, Layer
from services.runtime.experiment_set import ExperimentSet, check_set

MAX_SET_BYTES: Final = 8 << 20
"""Largest set, in bytes of canonical JSON, which are more than those of its message: it travels to routers whole."""

MAX_EXPERIMENT_BYTES: Final = 1_000_000
"""Largest experiment, in bytes of canonical JSON: it must fit into a record of a router's journal."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change, from where, and why."""

    who: str
    why: str
    peer: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What runs, the newest revision of each layer, and how large it is."""

    set: ExperimentSet = field(default_factory=ExperimentSet)
    layer_revisions: Mapping[str, int] = field(default_factory=dict)
    size: int = 0
    """Bytes of the experiments' canonical forms."""


@dataclass(frozen=True, slots=True)
class ExperimentChange:
    """One experiment's next revision; `after` is None for its end. `before` is what ran until then, if anything did."""

    name: str
    revision: int
    before: Experiment | None
    after: Experiment | None
    changes: tuple[str, ...]
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class LayerChange:
    """One layer's next revision; `after` is None for its end."""

    name: str
    revision: int
    before: Layer | None
    after: Layer | None
    changes: tuple[str, ...]
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes that are made together or not at all."""

    experiments: Sequence[ExperimentChange] = ()
    layers: Sequence[LayerChange] = ()

    def __bool__(self) -> bool:
        """Tells whether there is anything to do."""
        return bool(self.experiments or self.layers)


def next_revision(
    before: Experiment | None, after: Experiment | None, newest: int, author: Author, *, name: str
) -> ExperimentChange | None:
    """Plans an experiment's next revision; None when nothing would be different.

    Args:
        before: what runs now, if anything does.
        after: what is to run; its revision is not looked at.
        newest: the name's newest revision so far, 0 for a new name; a deleted experiment's counts.
        author: who changes it.
        name: the experiment's name.
    """
    if before is None:
        if after is None:
            return None
        changes = ["created again" if newest else "created"]
    elif after is None:
        changes = ["deleted"]
    else:
        changes = describe_changes(before, after)
        if not changes:
            return None
    revision = newest + 1
    numbered = None if after is None else after.model_copy(update={"revision": revision})
    return ExperimentChange(name, revision, before, numbered, tuple(changes), author.who, author.why)


def next_layer_revision(
    before: Layer | None, after: Layer | None, newest: int, author: Author, *, name: str
) -> LayerChange | None:
    """Plans a layer's next revision as `next_revision` does."""
    changes = describe_layer_changes(before, after)
    return LayerChange(name, newest + 1, before, after, tuple(changes), author.who, author.why) if changes else None


def plan_of(change: ExperimentChange | LayerChange | None) -> Plan:
    """Gives the plan of one change, or of none."""
    match change:
        case None:
            return Plan()
        case ExperimentChange():
            return Plan(experiments=(change,))
        case LayerChange():
            return Plan(layers=(change,))


def apply_plan(state: State, plan: Plan) -> State:
    """Gives the state after a plan, checked whole; the version grows by one, however much the plan changes.

    Raises:
        SetError: the set would break a rule.
        InvalidArgument: an experiment would be too large for a router's journal.
        FailedPrecondition: the set would be too large to be sent to routers.
    """
    size = state.size
    experiments, layers = dict(state.set.experiments), dict(state.set.layers)
    layer_revisions = dict(state.layer_revisions)
    for change in plan.experiments:
        size -= _size(experiments.pop(change.name, None))
        size += (added := _size(change.after))
        if added > MAX_EXPERIMENT_BYTES:
            sentence = f"{change.name}: overrides make it larger than {MAX_EXPERIMENT_BYTES} bytes: name fewer units"
            raise InvalidArgument("experiment.overrides", sentence)
        if change.after is not None:
            experiments[change.name] = change.after
    for layer in plan.layers:
        layers.pop(layer.name, None)
        layer_revisions.pop(layer.name, None)
        if layer.after is not None:
            layers[layer.name] = layer.after
            layer_revisions[layer.name] = layer.revision
    check_set(experiments, layers)
    if max(len(experiments), len(layers)) > MAX_EXPERIMENTS or (size > MAX_SET_BYTES and size > state.size):
        sentence = (
            f"at most {MAX_EXPERIMENTS} experiments and layers of {MAX_SET_BYTES >> 20} MiB fit: delete old ones first"
        )
        raise FailedPrecondition("", sentence)
    following = ExperimentSet(state.set.version + 1, experiments, layers, state.set.origin)
    return State(following, layer_revisions, size)


def _size(experiment: Experiment | None) -> int:
    return len(experiment.canonical_json()) if experiment is not None else 0
