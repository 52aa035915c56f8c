"""An experiment made ready: all that does not depend on the single decision is worked out once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never
from zoneinfo import ZoneInfo

from router.strategies.assignment import Assignment, AssignmentReason, Strategy
from router.strategies.hashed import Hashed
from router.strategies.hashing import salt_key
from router.strategies.paused import Paused
from router.strategies.rendezvous import Rendezvous
from router.strategies.rotation import Rotation, smooth_cycle
from router.strategies.switchback import Alternating, ArmOfBlock, Seeded, Switchback, Timetable, moments
from router.strategies.wallclock import Blocks, DailySlots, WallClock, Windows, offsets
from services.runtime.experiment import Experiment, Random, RoundRobin, Time, TimeAssignment, Weighted


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An experiment ready to assign. Immutable; may be shared among threads."""

    experiment: Experiment
    digest: int
    rotates: bool
    """Whether an assignment takes a position of the router's rotation."""
    strategy: Strategy


def compile_experiment(experiment: Experiment) -> Snapshot:
    """Makes an experiment ready: milliseconds at most, for the longest rotations; microseconds otherwise."""
    digest = experiment.digest()
    assignments = _Assignments(experiment, digest)
    if experiment.paused:
        paused = Paused(assignments.of(experiment.champion, 1.0, AssignmentReason.PAUSED))
        return Snapshot(experiment, digest, rotates=False, strategy=paused)
    weights = experiment.whole_weights()
    match experiment.strategy:
        case Random():
            strategy: Strategy = _hashed(assignments, dict.fromkeys(weights, 1))
        case Weighted():
            strategy = _hashed(assignments, weights)
        case RoundRobin():
            strategy = _rotation(assignments, weights)
        case Time() as time:
            strategy = _switchback(assignments, time, weights)
        case _:
            assert_never(experiment.strategy)
    return Snapshot(experiment, digest, rotates=isinstance(strategy, Rotation), strategy=strategy)


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
        )

    def by_share(self, names: Iterable[str], weights: Mapping[str, int], reason: AssignmentReason) -> _Choices:
        # One division of whole numbers: the double nearest to the share, in every language.
        total = sum(weights.values())
        return tuple(self.of(name, weights[name] / total, reason) for name in names)


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
            settled = tuple(assignments.of(name, 1.0, block) for name in names)
        case _:
            assert_never(time.assignment)
    clock = WallClock(blocks, offsets(ZoneInfo(time.time_zone) if time.time_zone else None))
    burning = tuple(choice._replace(burn_in=True) for choice in settled)
    return Switchback(moments(clock, time.burn_in_seconds), rule, settled, burning)
