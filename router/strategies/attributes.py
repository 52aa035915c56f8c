"""Which of a call's attributes the conditions look at: only those are read, and only those are written down."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

# "metadata" as a word, however it is used; then the three forms that name the entry they look at. Whatever is written
# in another way may look at any entry.
_USE: Final = re.compile(r"\bmetadata\b")
_TEXT: Final = r"""(?:"([^"\\\n]*)"|'([^'\\\n]*)')"""
_NAMED: Final = (
    re.compile(rf"(?<![\w.])metadata\s*\[\s*{_TEXT}\s*\]"),
    re.compile(rf"(?:^|[(&|?:,])\s*{_TEXT}\s+in\s+metadata\b(?!\s*[.\[(])"),
    re.compile(r"(?<![\w.])metadata\s*\.\s*([A-Za-z_]\w*)()(?!\s*\()\b"),
)


@dataclass(frozen=True, slots=True)
class Attributes:
    """Entries of a call's attributes that conditions look at; `every` when any of them may be looked at."""

    names: frozenset[str]
    every: bool
    wanted: bool = field(init=False)
    """Whether any entry is looked at."""

    def __post_init__(self) -> None:
        """Works out what is asked for every call."""
        object.__setattr__(self, "wanted", self.every or bool(self.names))

    def of(self, given: Mapping[str, str]) -> dict[str, str]:
        """Gives the entries that are looked at."""
        if self.every:
            return dict(given)
        return {name: given[name] for name in self.names if name in given}


def attributes_of(conditions: Iterable[str]) -> Attributes:
    """Gives what conditions in CEL look at, or more than that, never less."""
    names: set[str] = set()
    every = False
    for condition in conditions:
        found = [match for form in _NAMED for match in form.finditer(condition)]
        names.update(match[1] if match[1] is not None else match[2] for match in found)
        every = every or len(found) < len(_USE.findall(condition))
    return Attributes(frozenset(names), every)
