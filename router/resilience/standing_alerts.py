"""The variants on which a critical alert stands, as somebody outside of the data plane last said."""

from __future__ import annotations

from collections.abc import Iterable


class StandingAlerts:
    """The seam between monitoring and routing: whoever hears of alerts calls `replace`; routing looks them up.

    What was said last holds until something else is said: while monitoring is away, a variant that it warned of is not
    asked, and one that it did not warn of is.
    """

    __slots__ = ("_variants",)

    def __init__(self) -> None:
        self._variants: frozenset[tuple[str, str]] = frozenset()

    def replace(self, variants: Iterable[tuple[str, str]]) -> None:
        """Says on which (family, variant) critical alerts stand from now on."""
        self._variants = frozenset(variants)

    def stands(self, family: str, variant: str) -> bool:
        """Tells whether a critical alert stands on a variant."""
        return (family, variant) in self._variants
