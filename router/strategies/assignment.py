"""What every strategy gives: an arm, how it was chosen, and the probability with which it was chosen."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol


class AssignmentReason(IntEnum):
    """Why an arm was chosen; numbered as turnout.v1.AssignmentReason."""

    UNSPECIFIED = 0
    HASH = 1
    ROTATION = 2
    BLOCK = 3
    PAUSED = 4
    OVERRIDE = 5
    HOLD_OUT = 6
    CONCLUDED = 7


class Assignment(NamedTuple):
    """An arm chosen for a unit. Fields and meanings are those of turnout.v1.Assignment, plus the arm's variant."""

    arm: str
    variant: str
    propensity: float
    """Probability in (0, 1] with which this arm was chosen, over the draw of the salt, given the experiment."""
    reason: AssignmentReason
    revision: int
    digest: int
    """First 8 bytes, big-endian, of the SHA-256 of the canonical form that was compiled: the family's set."""
    sequence: int = 0
    """Round-robin only: position in the router's rotation."""
    burn_in: bool = False
    """Time only: the block is still in its burn-in."""
    experiment: str = ""
    """Name of the experiment; empty when none took the decision."""


class Strategy(Protocol):
    """Chooses an arm. Total (there is always an arm), pure, and the same on every machine."""

    def stamped(self, digest: int) -> Strategy:
        """Gives the same strategy whose assignments carry `digest`; what was worked out for it is shared."""
        ...

    def assign(
        self, *, unit_id: str, decision_id: str, tenant: str, region: str, at_unix_us: int, sequence: int
    ) -> Assignment:
        """Chooses the arm.

        Args:
            unit_id: What stays assigned; empty when the decision is the unit.
            decision_id: The decision's id.
            tenant: Tenant, whose units and blocks are independent of every other tenant's.
            region: Region of the switchback block.
            at_unix_us: The instant to assign for, in microseconds since 1970-01-01T00:00Z.
            sequence: Position in the router's rotation, from 0.
        """
        ...
