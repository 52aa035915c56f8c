"""Experiments travel as messages: nothing is lost, and what is wrong is refused with its field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from services.runtime.errors import InvalidArgument
from services.runtime.experiment import Experiment, Layer
from services.runtime.experiment_messages import (
    experiment_from_message,
    experiment_to_message,
    layer_from_message,
    layer_to_message,
    set_from_message,
    set_to_message,
)
from services.runtime.experiment_set import ExperimentSet
from tests.unit.given_experiments import NAMES, experiments, layers
from turnout.v1 import experiment_pb2


@settings(deadline=None, max_examples=200)
@given(experiments())
def test_an_experiment_survives_the_way_there_and_back(experiment: Experiment) -> None:
    """Through bytes, the order of its arms included: also its digest is the same, which names it in the ledger."""
    wire = experiment_to_message(experiment).SerializeToString()
    back = experiment_from_message(experiment_pb2.Experiment.FromString(wire))
    assert back == experiment
    assert list(back.arms) == list(experiment.arms)
    assert back.digest() == experiment.digest()


@settings(deadline=None)
@given(NAMES, layers())
def test_a_layer_survives_the_way_there_and_back(name: str, layer: Layer) -> None:
    """With its name."""
    wire = layer_to_message(name, layer).SerializeToString()
    assert layer_from_message(experiment_pb2.Layer.FromString(wire)) == (name, layer)


def good(**fields: Any) -> experiment_pb2.Experiment:
    """A good experiment with some fields changed."""
    arms = [experiment_pb2.Arm(name="a", variant="va", weight=1), experiment_pb2.Arm(name="b", variant="vb", weight=1)]
    form: dict[str, Any] = {
        "name": "main",
        "family": "dispatch",
        "revision": 1,
        "salt": "s",
        "strategy": experiment_pb2.Strategy(weighted=experiment_pb2.WeightedStrategy()),
        "arms": arms,
        "champion": "a",
    }
    return experiment_pb2.Experiment(**(form | fields))


def timed(**fields: Any) -> experiment_pb2.Experiment:
    """A switchback."""
    form = {"window_seconds": 3600} | fields
    return good(strategy=experiment_pb2.Strategy(time=experiment_pb2.TimeStrategy(**form)))


def weighted(*weights: float) -> experiment_pb2.Experiment:
    """Arms a and b with these weights."""
    return good(arms=[experiment_pb2.Arm(name=n, variant="v", weight=w) for n, w in zip("ab", weights, strict=True)])


def ramped(*steps: tuple[int, dict[str, float]]) -> experiment_pb2.Experiment:
    """With a ramp."""
    given_steps = [experiment_pb2.RampStep(after_seconds=after, weights=weights) for after, weights in steps]
    return good(ramp=experiment_pb2.Ramp(starts_at_unix_s=5, steps=given_steps))


REFUSED: dict[str, tuple[experiment_pb2.Experiment, str]] = {
    "a weight below 0": (weighted(1, -1), "arms[b].weight"),
    "a weight that is not a number": (weighted(float("nan"), 1), "arms[a].weight"),
    "an infinite weight": (weighted(float("inf"), 1), "arms[a].weight"),
    "weights that are all 0": (weighted(0, 0), "arms"),
    "an arm twice": (good(arms=[experiment_pb2.Arm(name="a", variant="v", weight=1)] * 2), "arms[a]"),
    "no arms": (good(arms=[]), "arms"),
    "no strategy": (good(strategy=None), "strategy"),
    "an unknown champion": (good(champion="c"), "champion"),
    "an unknown winner": (good(winner="c"), "winner"),
    "an override to a stranger": (good(overrides={"unit 7": "c"}), "overrides[unit 7]"),
    "a name with a path": (good(name="../etc/passwd"), "name"),
    "a name with a line break": (good(name="main\n"), "name"),
    "a name with a control character": (good(name="ma\x00in"), "name"),
    "a family with a slash": (good(family="a/b"), "family"),
    "an arm's name with a tab": (good(arms=[experiment_pb2.Arm(name="a\t", variant="v", weight=1)]), "arms[a\t]"),
    "a variant with a path": (good(arms=[experiment_pb2.Arm(name="a", variant="../v", weight=1)]), "arms[a].variant"),
    "an unknown time zone": (timed(time_zone="Mars/Olympus"), "strategy.time.time_zone"),
    "windows that do not tile the day": (
        timed(window_seconds=7000, time_zone="Europe/Paris"),
        "strategy.time.window_seconds",
    ),
    "no window": (timed(window_seconds=0), "strategy.time.window_seconds"),
    "an offset of a window": (timed(offset_seconds=3600), "strategy.time.offset_seconds"),
    "a burn-in of a window": (timed(burn_in_seconds=3600), "strategy.time.burn_in_seconds"),
    "an assignment that does not exist": (timed(assignment=99), "strategy.time.assignment"),
    "a timetable without one": (timed(assignment=3), "strategy.time.timetable"),
    "a timetable of strangers": (
        timed(assignment=3, timetable=[experiment_pb2.TimetableEntry(start_seconds=0, arm="c")]),
        "strategy.time.timetable[0].arm",
    ),
    "a condition that does not compile": (good(when="tenant =="), "when"),
    "a condition that gives no bool": (good(when="tenant"), "when"),
    "a condition over what is not there": (good(when="colour == 'red'"), "when"),
    "a priority over the bound": (good(priority=1001), "priority"),
    "a slice that ends before it starts": (
        good(layer=experiment_pb2.LayerSlice(layer="l", start=5, end=5)),
        "layer.start",
    ),
    "a slice past the buckets": (good(layer=experiment_pb2.LayerSlice(layer="l", start=5, end=10_001)), "layer.end"),
    "everything held out": (good(hold_out_percent=100), "hold_out_percent"),
    "three decimals held out": (good(hold_out_percent=0.125), "hold_out_percent"),
    "a shadow of nothing": (good(shadows=[experiment_pb2.Shadow(variant="v", percent=0)]), "shadows[v]"),
    "a shadow twice": (good(shadows=[experiment_pb2.Shadow(variant="v", percent=1)] * 2), "shadows[v]"),
    "a ramp without steps": (ramped(), "ramp.steps"),
    "a ramp that turns back": (ramped((5, {"a": 1}), (5, {"a": 2})), "ramp.steps"),
    "a ramp of strangers": (ramped((5, {"c": 1})), "ramp.steps[0].weights[c]"),
    "a ramp to nothing": (ramped((0, {"a": 1}), (5, {"a": 0, "b": 0})), "ramp.steps[1].weights"),
    "a ramp below 0": (ramped((5, {"a": -1})), "ramp.steps[0].weights[a]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_refused_with_its_field(case: str) -> None:
    """The field is named as the proto has it, and the sentence begins with it."""
    message, field = REFUSED[case]
    with pytest.raises(InvalidArgument) as refusal:
        experiment_from_message(message)
    assert refusal.value.field == field
    assert refusal.value.message.startswith(field)


def test_a_set_is_checked_whole() -> None:
    """Experiments that are good by themselves may still not fit together; a field counts from the set."""
    layer = experiment_pb2.Layer(name="l", salt="s")
    first, second = (
        good(name=name, layer=experiment_pb2.LayerSlice(layer="l", start=start, end=start + 10))
        for name, start in (("first", 0), ("second", 9))
    )
    cases = [
        ([first, second], [layer], "experiments[second].layer"),
        ([first], [], "experiments[first].layer"),
        ([weighted(0, 0)], [], "experiments[main].arms"),
        ([first, first], [layer], "experiments[first]"),
        ([], [layer, layer], "layers[l]"),
        ([], [experiment_pb2.Layer(name="l")], "layers[l].salt"),
    ]
    for experiments_given, layers_given, field in cases:
        with pytest.raises(InvalidArgument) as refusal:
            set_from_message(experiment_pb2.ExperimentSet(experiments=experiments_given, layers=layers_given))
        assert refusal.value.field == field
    found = set_from_message(experiment_pb2.ExperimentSet(version=7, experiments=[first], layers=[layer]))
    assert found == ExperimentSet(7, {"first": experiment_from_message(first)}, {"l": Layer(salt="s")})
    assert set_from_message(set_to_message(found)) == found
