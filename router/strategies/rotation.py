"""Round-robin: a smooth weighted rotation, one a router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from router.strategies.assignment import Assignment


def smooth_cycle(weights: Sequence[int]) -> bytes:
    """Gives one full cycle of indices, sum(weights) long, in which index i comes weights[i] times, spread evenly.

    At every step each arm earns its weight, the richest one (the first among equals) is chosen and pays the total.
    After any number of steps an arm is ahead of its share by at most 1 - 1/N and behind it by at most
    1/2 + 1/3 + … + 1/N, where N is the number of arms (proof in docs/assignment.md).

    Args:
        weights: At most 256 whole numbers above 0.
    """
    return _cycle(tuple(weights))


@lru_cache(maxsize=256)
def _cycle(weights: tuple[int, ...]) -> bytes:
    # Remembered: a long one takes 10 ms, and a ramp has many that come again with each change of the experiment.
    total = sum(weights)
    credit = [0] * len(weights)
    cycle = bytearray(total)
    for step in range(total):
        for index, weight in enumerate(weights):
            credit[index] += weight
        chosen = credit.index(max(credit))
        credit[chosen] -= total
        cycle[step] = chosen
    return bytes(cycle)


@dataclass(frozen=True, slots=True)
class Rotation:
    """The arm at a position of the rotation."""

    cycle: bytes
    choices: tuple[Assignment, ...]
    """The assignment to each arm, in the cycle's numbering."""

    def assign(
        self,
        *,
        unit_id: str,  # noqa: ARG002 - part of the protocol
        decision_id: str,  # noqa: ARG002 - part of the protocol
        tenant: str,  # noqa: ARG002 - part of the protocol
        region: str,  # noqa: ARG002 - part of the protocol
        at_unix_us: int,  # noqa: ARG002 - part of the protocol
        sequence: int,
    ) -> Assignment:
        """Chooses by the sequence alone; see Strategy.assign."""
        chosen = self.choices[self.cycle[sequence % len(self.cycle)]]
        arm, variant, propensity, reason, revision, digest, _, burn_in, experiment = chosen
        return Assignment(arm, variant, propensity, reason, revision, digest, sequence, burn_in, experiment)

    def stamped(self, digest: int) -> Rotation:
        """See Strategy.stamped."""
        return replace(self, choices=tuple(choice._replace(digest=digest) for choice in self.choices))
