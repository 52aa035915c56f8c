"""The safety net: the family's own rules, answered in this process when the router is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.client.answers import NO_ASSIGNMENT, Answer, Durability, FallbackReason
from services.client.features import Row
from services.runtime.identifiers import check_text

if TYPE_CHECKING:
    from bentos.family import Family


class LocalRules:
    """Answers by the rules of the families; each is imported when it is first needed, or ahead by `load`."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def load(self, family: str) -> Family:
        """Gives a family's declaration; imports it once, ahead of need where an import would cost too much time.

        Raises:
            NotFound: there is no such family.
        """
        found = self._families.get(family)
        if found is None:
            from bentos.family import load

            found = self._families[family] = load(family)
        return found

    def answer(self, family: str, row: Row) -> Answer:
        """Answers one row as the router's rules would, marked ROUTER_AWAY; nothing is recorded anywhere.

        Raises:
            NotFound: there is no such family.
            InvalidArgument: the row breaks the family's schema.
        """
        check_text("unit_id", row.unit_id)
        check_text("region", row.region)
        declared = self.load(family)
        _, vector = declared.schema.encode(*row.kinds)
        said = declared.rules(declared.row(*vector))
        return Answer(
            row.decision_id,
            said.value,
            said.confidence,
            declared.level(said.value),
            NO_ASSIGNMENT,
            "rules",
            declared.rules_version,
            FallbackReason.ROUTER_AWAY,
            Durability.NONE,
            tuple(said.reasons),
        )
