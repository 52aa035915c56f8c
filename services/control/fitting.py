"""Whether an experiment fits to what is served: its family, its variants and its tenant are there, its arms are ready.

Only what a change brings in is looked at, so that an experiment whose variant was taken out of turnout.yaml can still
be steered away from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.runtime.config import Config
from services.runtime.errors import FailedPrecondition
from services.runtime.experiment import Experiment

RULES = "rules"
Ready = frozenset[tuple[str, str]]
"""Families and variants that at least one router has ready."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served: by turnout.yaml, and by the routers that are connected; `ready` is None when none has told."""

    config: Config
    ready: Ready | None


def check_fit(before: Experiment | None, after: Experiment, serving: Serving) -> None:
    """Refuses what turnout.yaml does not have.

    Raises:
        FailedPrecondition: names the field of the experiment.
    """
    family = serving.config.families.get(after.family)
    if family is None:
        known = ", ".join(serving.config.families)
        raise FailedPrecondition("experiment.family", f"experiment.family: families of turnout.yaml are {known}")
    had = {arm.variant for arm in before.arms.values()} if before is not None else set()
    had |= set(before.shadows) if before is not None else set()
    used = [(f"arms[{name}].variant", arm.variant) for name, arm in after.arms.items()]
    for place, variant in used + [(f"shadows[{variant}]", variant) for variant in after.shadows]:
        if variant not in family.variants and variant not in had and not (variant == RULES and "arms" in place):
            field = f"experiment.{place}"
            sentence = (
                f"{field}: families.{after.family} of turnout.yaml has no variant {variant!r}: add it there first"
            )
            raise FailedPrecondition(field, sentence)
    tenants = serving.config.tenants
    moved = after.tenant is not None and (before is None or before.tenant != after.tenant)
    if tenants and moved and after.tenant not in tenants:
        sentence = f"experiment.tenant: tenants of turnout.yaml has no {after.tenant!r}: add it there first"
        raise FailedPrecondition("experiment.tenant", sentence)


def check_ready(before: Experiment | None, after: Experiment, serving: Serving, place: Callable[[str], str]) -> None:
    """Refuses an arm that would get traffic by this change while no router that is connected has its variant ready.

    Args:
        before: what runs, if anything does.
        after: what is to run.
        serving: what is served.
        place: gives the request's field for an arm.

    Raises:
        FailedPrecondition: names the field.
    """
    if serving.ready is None:
        return
    for arm, variant in answering(after).items():
        if variant == RULES or (before is not None and answering(before).get(arm) == variant):
            continue
        if (after.family, variant) not in serving.ready:
            field = place(arm)
            sentence = (
                f"{field}: no connected router has variant {variant!r} of {after.family} ready: "
                "wait until it is, or repeat with allow_unready"
            )
            raise FailedPrecondition(field, sentence)


def answering(experiment: Experiment) -> dict[str, str]:
    """Gives the arms that get traffic, now or later by a ramp, with their variants."""
    if experiment.winner is not None:
        return {experiment.winner: experiment.arms[experiment.winner].variant}
    arms = {arm for _, weights in experiment.stages() for arm in weights}
    return {name: arm.variant for name, arm in experiment.arms.items() if name in arms}
