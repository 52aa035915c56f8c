"""Random and weighted: the arm follows from a hash of the unit, or of the decision when there is no unit."""

from __future__ import annotations

from dataclasses import dataclass

from router.strategies.assignment import Assignment
from router.strategies.hashing import unit_hash
from router.strategies.rendezvous import Rendezvous


@dataclass(frozen=True, slots=True)
class Hashed:
    """Sticky shares; random is the case of equal weights."""

    key: bytes
    race: Rendezvous
    choices: tuple[Assignment, ...]
    """The assignment to each arm, in the race's order."""

    def assign(
        self,
        *,
        unit_id: str,
        decision_id: str,
        tenant: str,
        region: str,  # noqa: ARG002 - part of the protocol
        at_unix_us: int,  # noqa: ARG002 - part of the protocol
        sequence: int,  # noqa: ARG002 - part of the protocol
    ) -> Assignment:
        """Chooses by the unit alone; see Strategy.assign."""
        return self.choices[self.race.winner(unit_hash(self.key, tenant, unit_id, decision_id))]
