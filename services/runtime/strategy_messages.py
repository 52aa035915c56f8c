"""Strategies and ramps as messages, and back as the forms that turnout.yaml writes."""

from __future__ import annotations

from typing import Any, Final

from services.runtime.errors import InvalidArgument
from services.runtime.experiment import Ramp, Random, RoundRobin, Strategy, Time, TimeAssignment, Weighted
from turnout.v1 import experiment_pb2

_ASSIGNMENTS: Final = {
    TimeAssignment.SEEDED: experiment_pb2.TIME_ASSIGNMENT_SEEDED,
    TimeAssignment.ALTERNATING: experiment_pb2.TIME_ASSIGNMENT_ALTERNATING,
    TimeAssignment.TIMETABLE: experiment_pb2.TIME_ASSIGNMENT_TIMETABLE,
}
_NAMES: Final = {number: assignment.value for assignment, number in _ASSIGNMENTS.items()}


def strategy_to_message(strategy: Strategy) -> experiment_pb2.Strategy:
    """Gives a strategy as a message."""
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
                "timetable": [{"start_seconds": slot.start_seconds, "arm": slot.arm} for slot in time.timetable],
            }
            if time.assignment != experiment_pb2.TIME_ASSIGNMENT_UNSPECIFIED:
                if time.assignment not in _NAMES:
                    field = "strategy.time.assignment"
                    raise InvalidArgument(field, f"{field} must be one of {', '.join(sorted(_NAMES.values()))}")
                form["assignment"] = _NAMES[time.assignment]
            return form
        case kind:
            return {"kind": kind}


def ramp_to_message(ramp: Ramp) -> experiment_pb2.Ramp:
    """Gives a ramp as a message."""
    return experiment_pb2.Ramp(
        starts_at_unix_s=ramp.starts_at_unix_s,
        steps=[experiment_pb2.RampStep(after_seconds=step.after_seconds, weights=step.weights) for step in ramp.steps],
    )


def ramp_form(message: experiment_pb2.Ramp) -> dict[str, Any]:
    """Gives a ramp as turnout.yaml writes it."""
    return {
        "starts_at_unix_s": message.starts_at_unix_s,
        "steps": [{"after_seconds": step.after_seconds, "weights": dict(step.weights)} for step in message.steps],
    }
