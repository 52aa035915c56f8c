"""A change to an experiment: what it makes of the experiment, and in words what is different afterwards. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from services.runtime.errors import InvalidArgument
from services.runtime.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Change:
    """What to change; None keeps what is there."""

    strategy: dict[str, Any] | None = None
    """As turnout.yaml writes it, with `kind`."""
    weights: dict[str, float] | None = None
    """Weights of all arms."""
    paused: bool | None = None


def apply_change(experiment: Experiment, change: Change) -> Experiment:
    """Gives the experiment after a change, with the next revision; the same object when nothing is different.

    Raises:
        InvalidArgument: names the field that breaks a rule of experiments.
    """
    form = experiment.model_dump(mode="json")
    if change.strategy is not None:
        form["strategy"] = change.strategy
    if change.weights is not None:
        for name, weight in change.weights.items():
            form["arms"][name]["weight"] = weight
    if change.paused is not None:
        form["paused"] = change.paused
    try:
        same_revision = Experiment.model_validate(form)
        if same_revision == experiment:
            return experiment
        return Experiment.model_validate(form | {"revision": experiment.revision + 1})
    except ValidationError as error:
        raise _invalid(error, change) from error


def _invalid(error: ValidationError, change: Change) -> InvalidArgument:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or ("weights" if change.weights is not None else "strategy")
    message = first["msg"].removeprefix("Value error, ")
    return InvalidArgument(field, f"{field}: {message[:1].lower()}{message[1:]}")


def describe_changes(before: Experiment, after: Experiment) -> list[str]:
    """Gives what is different, one phrase each, for the audit log and for those whose base is stale."""
    found = []
    if before.strategy != after.strategy:
        found.append(f"strategy: {_words(before)} → {_words(after)}")
    for name in dict.fromkeys((*before.arms, *after.arms)):
        old, new = before.arms.get(name), after.arms.get(name)
        if old is None:
            found.append(f"arm {name}: added")
        elif new is None:
            found.append(f"arm {name}: removed")
        else:
            if old.variant != new.variant:
                found.append(f"arm {name}: variant {old.variant} → {new.variant}")
            if old.weight != new.weight:
                found.append(f"weights[{name}]: {old.weight:g} → {new.weight:g}")
    if before.paused != after.paused:
        found.append("paused" if after.paused else "resumed")
    if before.champion != after.champion:
        found.append(f"champion: {before.champion} → {after.champion}")
    if before.salt != after.salt:
        found.append("salt: changed")
    return found


def _words(experiment: Experiment) -> str:
    form = experiment.strategy.model_dump(mode="json", exclude_defaults=True)
    kind = form.pop("kind")
    return f"{kind} {json.dumps(form, sort_keys=True)}" if form else str(kind)
