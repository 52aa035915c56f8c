"""Experiments as messages, and messages as the changes that they ask for."""

from __future__ import annotations

import math
from typing import Any, Final

from services.runtime.errors import InvalidArgument
from services.runtime.experiment import (
    Experiment,
    Random,
    RoundRobin,
    Strategy,
    Time,
    TimeAssignment,
    Weighted,
)
from turnout.v1 import experiment_pb2

MAX_WEIGHT: Final = 10_000
_ASSIGNMENTS: Final = {
    TimeAssignment.SEEDED: experiment_pb2.TIME_ASSIGNMENT_SEEDED,
    TimeAssignment.ALTERNATING: experiment_pb2.TIME_ASSIGNMENT_ALTERNATING,
    TimeAssignment.TIMETABLE: experiment_pb2.TIME_ASSIGNMENT_TIMETABLE,
}
_NAMES: Final = {number: assignment.value for assignment, number in _ASSIGNMENTS.items()}


def experiment_message(experiment: Experiment) -> experiment_pb2.Experiment:
    """Gives an experiment as a message; the arms stand by name."""
    return experiment_pb2.Experiment(
        name=experiment.name,
        family=experiment.family,
        revision=experiment.revision,
        salt=experiment.salt,
        strategy=_strategy_message(experiment.strategy),
        arms=[
            experiment_pb2.Arm(name=name, variant=arm.variant, weight=arm.weight)
            for name, arm in sorted(experiment.arms.items())
        ],
        champion=experiment.champion,
        paused=experiment.paused,
    )


def _strategy_message(strategy: Strategy) -> experiment_pb2.Strategy:
    match strategy:
        case Random():
            return experiment_pb2.Strategy(random=experiment_pb2.RandomStrategy())
        case Weighted():
            return experiment_pb2.Strategy(weighted=experiment_pb2.WeightedStrategy())
        case RoundRobin():
            return experiment_pb2.Strategy(round_robin=experiment_pb2.RoundRobinStrategy())
        case Time():
            return experiment_pb2.Strategy(
                time=experiment_pb2.TimeStrategy(
                    window_seconds=strategy.window_seconds,
                    offset_seconds=strategy.offset_seconds,
                    time_zone=strategy.time_zone,
                    burn_in_seconds=strategy.burn_in_seconds,
                    assignment=_ASSIGNMENTS[strategy.assignment],
                    timetable=[
                        experiment_pb2.TimetableEntry(start_seconds=slot.start_seconds, arm=slot.arm)
                        for slot in strategy.timetable
                    ],
                )
            )


def strategy_form(message: experiment_pb2.Strategy) -> dict[str, Any]:
    """Gives a strategy as turnout.yaml writes it; its values are checked by the experiment's own rules.

    Raises:
        InvalidArgument: no strategy is named, or the assignment is not one that exists.
    """
    match message.WhichOneof("kind"):
        case None:
            raise InvalidArgument("strategy", "strategy must be one of random, round_robin, time and weighted")
        case "time":
            time = message.time
            form: dict[str, Any] = {
                "kind": "time",
                "window_seconds": time.window_seconds,
                "offset_seconds": time.offset_seconds,
                "time_zone": time.time_zone,
                "burn_in_seconds": time.burn_in_seconds,
            }
            if time.assignment != experiment_pb2.TIME_ASSIGNMENT_UNSPECIFIED:
                if time.assignment not in _NAMES:
                    field = "strategy.time.assignment"
                    raise InvalidArgument(field, f"{field} must be one of {', '.join(sorted(_NAMES.values()))}")
                form["assignment"] = _NAMES[time.assignment]
            if time.timetable:
                form["timetable"] = [{"start_seconds": slot.start_seconds, "arm": slot.arm} for slot in time.timetable]
            return form
        case kind:
            return {"kind": kind}


def changed_weights(experiment: Experiment, weights: dict[str, float]) -> dict[str, float]:
    """Gives the weights of all arms after a change.

    Raises:
        InvalidArgument: names the arm that does not exist or whose weight is no share, or `weights` when none is left
            above 0.
    """
    for arm, weight in weights.items():
        field = f"weights[{arm[:64]}]"
        if arm not in experiment.arms:
            raise InvalidArgument(field, f"{field}: the arms are {', '.join(experiment.arms)}")
        if not (math.isfinite(weight) and 0 <= weight <= MAX_WEIGHT):
            raise InvalidArgument(field, f"{field} must be a number from 0 to {MAX_WEIGHT}")
        if not math.isclose(weight * 100, round(weight * 100), abs_tol=1e-6):
            raise InvalidArgument(field, f"{field} must have at most two decimals")
    after = {name: weights.get(name, arm.weight) for name, arm in experiment.arms.items()}
    if not any(weight >= 0.005 for weight in after.values()):
        raise InvalidArgument("weights", "weights must leave at least one arm above 0")
    return after
