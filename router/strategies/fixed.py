"""Paused or concluded: everything goes to one arm."""

from __future__ import annotations

from dataclasses import dataclass

from router.strategies.assignment import Assignment


@dataclass(frozen=True, slots=True)
class Fixed:
    """One answer for all."""

    choice: Assignment

    def assign(
        self,
        *,
        unit_id: str,  # noqa: ARG002 - part of the protocol
        decision_id: str,  # noqa: ARG002 - part of the protocol
        tenant: str,  # noqa: ARG002 - part of the protocol
        region: str,  # noqa: ARG002 - part of the protocol
        at_unix_us: int,  # noqa: ARG002 - part of the protocol
        sequence: int,  # noqa: ARG002 - part of the protocol
    ) -> Assignment:
        """Gives the one arm; see Strategy.assign."""
        return self.choice

    def stamped(self, digest: int) -> Fixed:
        """See Strategy.stamped."""
        return Fixed(self.choice._replace(digest=digest))
