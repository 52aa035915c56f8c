"""Texts of others on this terminal: what steers a terminal, or turns the reading order around, is shown and not done.

A reason, an alert or a refusal may hold any character, and whoever wrote it need not be a friend. ESC ] 0 renames the
window, other sequences erase lines or answer as if the keyboard had; U+202E has a name read backwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

HARMFUL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters but tab and new line, and those of Unicode that change direction or break lines."""
_SHOWN: Final = "\N{REPLACEMENT CHARACTER}"


class HarmlessConsole(Console):
    """A console whose own styles are the only thing that steers the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Gives what is written, piece by piece; rich itself lets ESC through."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control or not HARMFUL.search(text) else Segment(HARMFUL.sub(_SHOWN, text), style)


def in_json(text: str) -> str:
    """Gives JSON whose texts mean the same and hold nothing harmful."""
    # Such characters stand nowhere in JSON but within texts, where these four digits mean the very same.
    return HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def is_harmful(value: Any) -> bool:
    """Tells whether a plain value has a text, or a key, with anything harmful in it."""
    match value:
        case str():
            return HARMFUL.search(value) is not None
        case dict():
            return any(is_harmful(key) or is_harmful(one) for key, one in value.items())
        case list() | tuple():
            return any(map(is_harmful, value))
        case _:
            return False
