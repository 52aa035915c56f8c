"""What each kind of change makes of an experiment. Pure; the result is checked whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from services.runtime.errors import FailedPrecondition, InvalidArgument
from services.runtime.experiment import Experiment
from services.runtime.field_paths import checked
from services.runtime.strategy_messages import ramp_form, strategy_form
from turnout.v1 import experiment_pb2

MAX_WEIGHT: Final = 10_000
Edit = Callable[[Experiment], Experiment]


def strategy_edit(request: experiment_pb2.SetStrategyRequest, now_unix_s: int) -> Edit:
    """Gives the change to a new strategy, new weights, a new ramp, or several of them.

    Raises:
        InvalidArgument: nothing is to be changed, or what is asked for breaks a rule by itself.
    """
    if not (request.HasField("strategy") or request.weights or request.HasField("ramp")):
        raise InvalidArgument("strategy", "strategy, weights or ramp must say what to change")
    form: dict[str, Any] = {}
    if request.HasField("strategy"):
        form["strategy"] = strategy_form(request.strategy)
    if request.HasField("ramp"):
        form["ramp"] = ramp_form(request.ramp)
        form["ramp"]["starts_at_unix_s"] = form["ramp"]["starts_at_unix_s"] or now_unix_s
    weights = dict(request.weights)

    def edit(experiment: Experiment) -> Experiment:
        _not_concluded(experiment)
        return _checked(experiment, form | _weighed(experiment, weights))

    return edit


def pause(experiment: Experiment) -> Experiment:
    """Sends all traffic to the champion."""
    _not_concluded(experiment)
    return experiment.model_copy(update={"paused": True})


def resume(experiment: Experiment) -> Experiment:
    """Ends a pause."""
    _not_concluded(experiment)
    return experiment.model_copy(update={"paused": False})


def stop_ramp_edit(now_unix_s: int) -> Edit:
    """Gives the change that ends a ramp and keeps the weights that it has reached."""

    def edit(experiment: Experiment) -> Experiment:
        _not_concluded(experiment)
        if experiment.ramp is None:
            raise FailedPrecondition("name", f"{experiment.name!r} has no ramp that could be stopped")
        elapsed = now_unix_s - experiment.ramp.starts_at_unix_s
        reached = [step.weights for step in experiment.ramp.steps if step.after_seconds <= elapsed]
        return _checked(experiment, {"ramp": None} | _weighed(experiment, reached[-1] if reached else {}))

    return edit


def conclusion_edit(winner: str) -> Edit:
    """Gives the change that sends everything to the winner; a pause ends with it."""

    def edit(experiment: Experiment) -> Experiment:
        if winner not in experiment.arms:
            raise InvalidArgument("winner", f"winner must be one of the arms {', '.join(experiment.arms)}")
        if experiment.winner != winner:
            _not_concluded(experiment)
        return experiment.model_copy(update={"winner": winner, "paused": False})

    return edit


def _not_concluded(experiment: Experiment) -> None:
    if experiment.winner is not None:
        sentence = f"{experiment.name!r} was concluded, {experiment.winner!r} won: undo that first, or update it whole"
        raise FailedPrecondition("name", sentence)


def _weighed(experiment: Experiment, weights: Mapping[str, float]) -> dict[str, Any]:
    """Gives the arms with new weights; those that are not named keep theirs.

    Raises:
        InvalidArgument: names the arm that does not exist or whose weight is no share.
    """
    if not weights:
        return {}
    for arm, weight in weights.items():
        field = f"weights[{arm[:64]}]"
        if arm not in experiment.arms:
            raise InvalidArgument(field, f"{field}: the arms are {', '.join(experiment.arms)}")
        if not (math.isfinite(weight) and 0 <= weight <= MAX_WEIGHT):
            raise InvalidArgument(field, f"{field} must be a number from 0 to {MAX_WEIGHT}")
        if not math.isclose(weight * 100, round(weight * 100), abs_tol=1e-6):
            raise InvalidArgument(field, f"{field} must have at most two decimals")
    arms = {
        name: {"variant": arm.variant, "weight": weights.get(name, arm.weight)} for name, arm in experiment.arms.items()
    }
    return {"arms": arms}


def _checked(experiment: Experiment, form: dict[str, Any]) -> Experiment:
    try:
        return checked(Experiment, experiment.model_dump(mode="json") | form)
    except InvalidArgument as error:
        if error.field == "arms":
            # The request has no arms: what is wrong with all of them together are their weights.
            raise InvalidArgument("weights", f"weights{error.message.removeprefix('arms')}") from error
        raise
