"""Experiments and layers as messages, and back: checked whole, the order of arms kept, nothing lost on the way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from services.runtime.errors import InvalidArgument
from services.runtime.experiment import Experiment, Frozen, Layer, LayerSlice, Name
from services.runtime.experiment_set import ExperimentSet, SetError, check_set
from services.runtime.field_paths import below, checked, field_path
from services.runtime.strategy_messages import ramp_form, ramp_to_message, strategy_form, strategy_to_message
from turnout.v1 import experiment_pb2


def experiment_to_message(experiment: Experiment) -> experiment_pb2.Experiment:
    """Gives an experiment as a message; the arms stand in their order."""
    message = experiment_pb2.Experiment(
        name=experiment.name,
        family=experiment.family,
        revision=experiment.revision,
        salt=experiment.salt,
        strategy=strategy_to_message(experiment.strategy),
        arms=[
            experiment_pb2.Arm(name=name, variant=arm.variant, weight=arm.weight)
            for name, arm in experiment.arms.items()
        ],
        champion=experiment.champion,
        paused=experiment.paused,
        winner=experiment.winner or "",
        tenant=experiment.tenant or "",
        when=experiment.when,
        priority=experiment.priority,
        layer=_slice_to_message(experiment.layer),
        hold_out_percent=experiment.hold_out_percent,
        overrides=experiment.overrides,
        shadows=[
            experiment_pb2.Shadow(variant=variant, percent=percent) for variant, percent in experiment.shadows.items()
        ],
    )
    if experiment.ramp is not None:
        message.ramp.CopyFrom(ramp_to_message(experiment.ramp))
    return message


def experiment_from_message(message: experiment_pb2.Experiment, *, revision: int | None = None) -> Experiment:
    """Checks a message and gives the experiment.

    Args:
        message: the experiment.
        revision: taken instead of the message's.

    Raises:
        InvalidArgument: names the field, counted from the experiment, such as `arms[a].weight`.
    """
    form: dict[str, Any] = {
        "name": message.name,
        "family": message.family,
        "revision": message.revision if revision is None else revision,
        "salt": message.salt,
        "strategy": strategy_form(message.strategy),
        "arms": _by_key("arms", [(arm.name, {"variant": arm.variant, "weight": arm.weight}) for arm in message.arms]),
        "champion": message.champion,
        "paused": message.paused,
        "winner": message.winner or None,
        "tenant": message.tenant or None,
        "when": message.when,
        "priority": message.priority,
        "layer": _slice_form(message.layer) if message.HasField("layer") else None,
        "hold_out_percent": message.hold_out_percent,
        "overrides": dict(message.overrides),
        "shadows": _by_key("shadows", [(shadow.variant, shadow.percent) for shadow in message.shadows]),
        "ramp": ramp_form(message.ramp) if message.HasField("ramp") else None,
    }
    return checked(Experiment, form)


def layer_to_message(name: str, layer: Layer, *, revision: int = 0) -> experiment_pb2.Layer:
    """Gives a layer as a message."""
    within = _slice_to_message(layer.within)
    return experiment_pb2.Layer(name=name, salt=layer.salt, within=within, revision=revision)


def layer_from_message(message: experiment_pb2.Layer) -> tuple[str, Layer]:
    """Checks a message and gives the layer with its name.

    Raises:
        InvalidArgument: names the field, counted from the layer.
    """
    form = {"salt": message.salt, "within": _slice_form(message.within) if message.HasField("within") else None}
    return checked(_Named, {"name": message.name}).name, checked(Layer, form)


def set_to_message(given: ExperimentSet) -> experiment_pb2.ExperimentSet:
    """Gives a whole set as a message, everything by name."""
    return experiment_pb2.ExperimentSet(
        version=given.version,
        experiments=[experiment_to_message(experiment) for _, experiment in sorted(given.experiments.items())],
        layers=[layer_to_message(name, layer) for name, layer in sorted(given.layers.items())],
        origin=given.origin,
    )


def set_from_message(message: experiment_pb2.ExperimentSet) -> ExperimentSet:
    """Checks a whole set, also what its experiments and layers must keep to together.

    Raises:
        InvalidArgument: names the field, such as `experiments[dispatch].arms[a].weight`.
    """
    experiments: dict[str, Experiment] = {}
    for one in message.experiments:
        with_prefix = f"experiments[{one.name[:64]}]"
        if one.name in experiments:
            raise InvalidArgument(with_prefix, f"{with_prefix} stands twice in the set")
        try:
            experiments[one.name] = experiment_from_message(one)
        except InvalidArgument as error:
            raise below(with_prefix, error) from error
    layers: dict[str, Layer] = {}
    for layer in message.layers:
        with_prefix = f"layers[{layer.name[:64]}]"
        if layer.name in layers:
            raise InvalidArgument(with_prefix, f"{with_prefix} stands twice in the set")
        try:
            layers[layer.name] = layer_from_message(layer)[1]
        except InvalidArgument as error:
            raise below(with_prefix, error) from error
    try:
        check_set(experiments, layers)
    except SetError as error:
        field = field_path(error.path, keyed=("experiments", "layers"))
        raise InvalidArgument(field, f"{field}: {error}") from error
    return ExperimentSet(message.version, experiments, layers, message.origin)


class _Named(Frozen):
    name: Name


def _slice_to_message(given: LayerSlice | None) -> experiment_pb2.LayerSlice | None:
    return None if given is None else experiment_pb2.LayerSlice(layer=given.layer, start=given.start, end=given.end)


def _slice_form(message: experiment_pb2.LayerSlice) -> dict[str, Any]:
    return {"layer": message.layer, "start": message.start, "end": message.end}


def _by_key(field: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            place = f"{field}[{key[:64]}]"
            raise InvalidArgument(place, f"{place}: stands twice")
        found[key] = value
    return found
