"""What is different between two revisions, in words for the history and the audit log. Pure."""

from __future__ import annotations

import json

from services.runtime.experiment import Experiment, Layer, LayerSlice, Ramp


def describe_changes(before: Experiment, after: Experiment) -> list[str]:
    """Gives what is different, one phrase each; empty when only the revision is."""
    found = []
    for field in ("family", "tenant"):
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            found.append(f"{field}: {old or 'all'} → {new or 'all'}")
    if before.strategy != after.strategy:
        found.append(f"strategy: {_strategy(before)} → {_strategy(after)}")
    found += _arms(before, after)
    if before.paused != after.paused:
        found.append("paused" if after.paused else "resumed")
    if before.winner != after.winner:
        found.append(f"concluded: {after.winner} won" if after.winner else f"reopened: {before.winner} no longer won")
    if before.champion != after.champion:
        found.append(f"champion: {before.champion} → {after.champion}")
    if before.salt != after.salt:
        found.append("salt: changed, all units are dealt anew")
    return found + _around(before, after)


def _arms(before: Experiment, after: Experiment) -> list[str]:
    found = []
    for name in dict.fromkeys((*before.arms, *after.arms)):
        old, new = before.arms.get(name), after.arms.get(name)
        if old is None and new is not None:
            found.append(f"arm {name}: added with variant {new.variant} and weight {new.weight:g}")
        elif new is None:
            found.append(f"arm {name}: removed")
        elif old is not None:
            if old.variant != new.variant:
                found.append(f"arm {name}: variant {old.variant} → {new.variant}")
            if old.weight != new.weight:
                found.append(f"weights[{name}]: {old.weight:g} → {new.weight:g}")
    if before.arms.keys() == after.arms.keys() and list(before.arms) != list(after.arms):
        found.append(f"order of the arms: {', '.join(after.arms)}")
    return found


def _around(before: Experiment, after: Experiment) -> list[str]:
    """Gives what is different around the strategy."""
    found = []
    if before.when != after.when:
        found.append(f"when: {before.when or 'always'} → {after.when or 'always'}")
    if before.priority != after.priority:
        found.append(f"priority: {before.priority} → {after.priority}")
    if before.layer != after.layer:
        found.append(f"layer: {_slice(before.layer)} → {_slice(after.layer)}")
    if before.hold_out_percent != after.hold_out_percent:
        found.append(f"hold_out_percent: {before.hold_out_percent:g} → {after.hold_out_percent:g}")
    if before.overrides != after.overrides:
        units = {unit for unit, arm in before.overrides.items() ^ after.overrides.items()}
        found.append(f"overrides: {len(units)} units changed, {len(after.overrides)} are there now")
    if before.shadows != after.shadows:
        found.append(f"shadows: {_shadows(before)} → {_shadows(after)}")
    elif list(before.shadows) != list(after.shadows):
        found.append(f"order of the shadows: {', '.join(after.shadows)}")
    if before.ramp != after.ramp:
        found.append(f"ramp: {_ramp(before.ramp)} → {_ramp(after.ramp)}")
    return found


def describe_layer_changes(before: Layer | None, after: Layer | None) -> list[str]:
    """Gives what is different between two revisions of a layer; None where there is none."""
    if before is None or after is None:
        return ["created" if before is None else "deleted"]
    found = []
    if before.salt != after.salt:
        found.append("salt: changed, all units are dealt anew")
    if before.within != after.within:
        found.append(f"within: {_slice(before.within)} → {_slice(after.within)}")
    return found


def _strategy(experiment: Experiment) -> str:
    form = experiment.strategy.model_dump(mode="json", exclude_defaults=True)
    kind = experiment.strategy.kind
    form.pop("kind", None)
    return f"{kind} {json.dumps(form, sort_keys=True)}" if form else kind


def _slice(given: LayerSlice | None) -> str:
    return "none" if given is None else f"{given.layer} {given.start} to {given.end - 1}"


def _shadows(experiment: Experiment) -> str:
    return ", ".join(f"{variant} {percent:g} %" for variant, percent in experiment.shadows.items()) or "none"


def _ramp(ramp: Ramp | None) -> str:
    if ramp is None:
        return "none"
    steps = "; ".join(
        f"+{step.after_seconds} s {', '.join(f'{arm}={weight:g}' for arm, weight in sorted(step.weights.items()))}"
        for step in ramp.steps
    )
    return f"from {ramp.starts_at_unix_s}: {steps}"
