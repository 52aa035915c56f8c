"""An experiment made ready: all that does not depend on the single decision is worked out once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import assert_never
from zoneinfo import ZoneInfo

from router.strategies.around import HeldOut, Overridden, Ramped
from router.strategies.assignment import Assignment, AssignmentReason, Strategy
from router.strategies.fixed import Fixed
from router.strategies.hashed import Hashed
from router.strategies.hashing import salt_key
from router.strategies.rendezvous import Rendezvous
from router.strategies.rotation import Rotation, smooth_cycle
from router.strategies.switchback import Alternating, ArmOfBlock, Seeded, Switchback, Timetable, moments
from router.strategies.wallclock import Blocks, DailySlots, WallClock, Windows, offsets
from services.runtime.experiment import (
    BUCKETS,
    Experiment,
    Random,
    RoundRobin,
    Time,
    TimeAssignment,
    Weighted,
)
from services.runtime.targeting import Condition, compile_condition


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An experiment ready to assign. Immutable; may be shared among threads."""

    experiment: Experiment
    digest: int
    """Carried by its assignments: the experiment's own, or that of the set that it was put into."""
    rotates: bool
    """Whether an assignment may take a position of the router's rotation: its reason tells whether it did."""
    strategy: Strategy
    condition: Condition | None = None
    """Of its targeting rule; see `router.strategies.family`."""

    def stamped(self, digest: int) -> Snapshot:
        """Gives the same experiment as a part of the set with that digest."""
        return replace(self, digest=digest, strategy=self.strategy.stamped(digest))


def compile_experiment(experiment: Experiment) -> Snapshot:
    """Makes an experiment ready: milliseconds at most, for the longest rotations; microseconds otherwise."""
    digest = experiment.digest()
    return Snapshot(
        experiment,
        digest,
        rotates=isinstance(experiment.strategy, RoundRobin) and not experiment.paused and experiment.winner is None,
        strategy=_strategy(experiment, digest),
        condition=compile_condition(experiment.when) if experiment.when else None,
    )


def _strategy(experiment: Experiment, digest: int) -> Strategy:
    """Puts together what stands around the strategy, the outermost first in docs/assignment.md, section 7."""
    assignments = _Assignments(experiment, digest)
    if experiment.winner is not None:
        return Fixed(assignments.of(experiment.winner, 1.0, AssignmentReason.CONCLUDED))
    if experiment.paused:
        return Fixed(assignments.of(experiment.champion, 1.0, AssignmentReason.PAUSED))
    whens, stages = zip(*experiment.stages(), strict=True)
    strategies = tuple(_stage(assignments, weights) for weights in stages)
    strategy = strategies[0] if len(strategies) == 1 else Ramped(whens[1:], strategies)
    if experiment.overrides:
        given = AssignmentReason.OVERRIDE
        choices = {unit: assignments.of(arm, 1.0, given) for unit, arm in experiment.overrides.items()}
        return Overridden(choices, strategy)
    return strategy


def _stage(assignments: _Assignments, weights: Mapping[str, int]) -> Strategy:
    """Gives the strategy under one stage's weights, with the hold-out before it."""
    experiment = assignments.experiment
    equal = dict.fromkeys(weights, 1)
    match experiment.strategy:
        case Random():
            strategy: Strategy = _hashed(assignments, equal)
            weights = equal
        case Weighted():
            strategy = _hashed(assignments, weights)
        case RoundRobin():
            strategy = _rotation(assignments, weights)
        case Time() as time:
            strategy = _switchback(assignments, time, weights)
            weights = equal if time.assignment is TimeAssignment.ALTERNATING else weights
        case _:
            assert_never(experiment.strategy)
    if not assignments.held:
        return strategy
    return _held_out(assignments, strategy, weights)


def _held_out(assignments: _Assignments, strategy: Strategy, weights: Mapping[str, int]) -> HeldOut:
    experiment, reason = assignments.experiment, AssignmentReason.HOLD_OUT
    if isinstance(experiment.strategy, Time) and experiment.strategy.timetable:
        champion = assignments.of(experiment.champion, assignments.held / BUCKETS, reason)
        agreeing = assignments.of(experiment.champion, 1.0, reason)
    else:
        share = assignments.share(experiment.champion, weights.get(experiment.champion, 0), sum(weights.values()))
        champion = agreeing = assignments.of(experiment.champion, share, reason)
    return HeldOut(salt_key(experiment.salt), assignments.held, champion, agreeing, strategy)


def assign(
    snapshot: Snapshot, *, unit_id: str, decision_id: str, tenant: str, region: str, at_unix_us: int, sequence: int
) -> Assignment:
    """Chooses the arm for a decision: a pure function of its arguments, so that a replay gives the same to the bit.

    Args:
        snapshot: The experiment.
        unit_id: What stays assigned; empty when the decision is the unit.
        decision_id: The decision's id.
        tenant: Tenant, from the credential.
        region: Region of the switchback block.
        at_unix_us: The instant to assign for, in microseconds since 1970-01-01T00:00Z.
        sequence: Position in the router's rotation, from 0; of use to round-robin only.
    """
    return snapshot.strategy.assign(
        unit_id=unit_id,
        decision_id=decision_id,
        tenant=tenant,
        region=region,
        at_unix_us=at_unix_us,
        sequence=sequence,
    )


@dataclass(frozen=True, slots=True)
class _Assignments:
    """Makes the answers that an experiment can give."""

    experiment: Experiment
    digest: int

    def of(self, arm: str, propensity: float, reason: AssignmentReason, *, burn_in: bool = False) -> Assignment:
        return Assignment(
            arm=arm,
            variant=self.experiment.arms[arm].variant,
            propensity=propensity,
            reason=reason,
            revision=self.experiment.revision,
            digest=self.digest,
            burn_in=burn_in,
            experiment=self.experiment.name,
        )

    @property
    def held(self) -> int:
        """Buckets that are held out for the champion."""
        return round(self.experiment.hold_out_percent * 100)

    def share(self, arm: str, weight: int, total: int) -> float:
        """Gives the probability of an arm whose strategy chooses it with weight / total, the hold-out mixed in."""
        # One division of whole numbers: the double nearest to the share, in every language.
        extra = self.held * total if arm == self.experiment.champion else 0
        return ((BUCKETS - self.held) * weight + extra) / (BUCKETS * total)

    def by_share(self, names: Iterable[str], weights: Mapping[str, int], reason: AssignmentReason) -> _Choices:
        total = sum(weights.values())
        return tuple(self.of(name, self.share(name, weights[name], total), reason) for name in names)


_Choices = tuple[Assignment, ...]


def _hashed(assignments: _Assignments, weights: Mapping[str, int]) -> Hashed:
    key = salt_key(assignments.experiment.salt)
    race = Rendezvous.of(weights, key)
    return Hashed(key=key, race=race, choices=assignments.by_share(race.names, weights, AssignmentReason.HASH))


def _rotation(assignments: _Assignments, weights: Mapping[str, int]) -> Rotation:
    return Rotation(
        cycle=smooth_cycle(tuple(weights.values())),
        choices=assignments.by_share(weights, weights, AssignmentReason.ROTATION),
    )


def _switchback(assignments: _Assignments, time: Time, weights: Mapping[str, int]) -> Switchback:
    block = AssignmentReason.BLOCK
    key = salt_key(assignments.experiment.salt)
    blocks: Blocks = Windows(time.window_seconds, time.offset_seconds)
    match time.assignment:
        case TimeAssignment.SEEDED:
            race = Rendezvous.of(weights, key)
            rule: ArmOfBlock = Seeded(key, race)
            settled = assignments.by_share(race.names, weights, block)
        case TimeAssignment.ALTERNATING:
            rule = Alternating(key, len(weights))
            settled = assignments.by_share(weights, dict.fromkeys(weights, 1), block)
        case TimeAssignment.TIMETABLE:
            names = list(weights)
            blocks = DailySlots(tuple(slot.start_seconds for slot in time.timetable))
            rule = Timetable(tuple(names.index(slot.arm) for slot in time.timetable))
            settled = tuple(assignments.of(name, assignments.share(name, 1, 1), block) for name in names)
        case _:
            assert_never(time.assignment)
    clock = WallClock(blocks, offsets(ZoneInfo(time.time_zone) if time.time_zone else None))
    burning = tuple(choice._replace(burn_in=True) for choice in settled)
    return Switchback(moments(clock, time.burn_in_seconds), rule, settled, burning)
