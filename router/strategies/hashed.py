"""Random and weighted: the arm follows from a hash of the unit, or of the decision when there is no unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from router.strategies.assignment import Assignment
from router.strategies.hashing import unit_hash, unit_hashes
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
        if len(self.choices) == 1:
            # Whatever the hash were.
            return self.choices[0]
        return self.choices[self.race.winner(unit_hash(self.key, tenant, unit_id, decision_id))]

    def assign_all(self, tenant: str, unit_ids: Sequence[str], decision_ids: Sequence[str]) -> list[Assignment]:
        """Chooses as `assign` does, for many units of one tenant."""
        if len(self.choices) == 1:
            return [self.choices[0]] * len(decision_ids)
        winners = self.race.winners(unit_hashes(self.key, tenant, unit_ids, decision_ids))
        return [self.choices[winner] for winner in winners]

    def stamped(self, digest: int) -> Hashed:
        """See Strategy.stamped."""
        return replace(self, choices=tuple(choice._replace(digest=digest) for choice in self.choices))
