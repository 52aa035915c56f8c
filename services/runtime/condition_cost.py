"""What a condition in CEL may cost, told from its text before it is ever evaluated.

CEL has no loops but its macros, which go through a map or list, and the library ends an evaluation after 10 000 steps
of them. Steps alone bound nothing, as attacks on the library showed: `.map(x, x + x)` over and over doubles a text each
time (16 times took 10 s and 4 GB), and a regular expression is compiled anew at each step (97 bytes of condition took
36 s). Hence the rules that `check_cost` holds; what is left to spite is some 30 ms.

Source: https://github.com/google/cel-spec, https://github.com/google/re2/wiki/Syntax.
"""

from __future__ import annotations

import re
from typing import Final

MAX_MACRO_DEPTH: Final = 2
MAX_MAPS: Final = 1
MAX_ADDITIONS: Final = 4
MAX_PATTERN: Final = 128
MAX_PATTERN_COST: Final = 1024
"""Length of a pattern with its repetitions written out, about."""
_TOKEN: Final = re.compile(
    r"""(?:[bB]?[rR]|[rR][bB])(?:\"{3}[\s\S]*?\"{3}|'{3}[\s\S]*?'{3}|"[^"]*"|'[^']*')"""
    r"""|\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|//[^\n]*"""
    r"""|(?P<macro>\.\s*(?:all|exists|exists_one|existsOne|(?P<map>map)|filter)\s*\()"""
    r"""|(?P<matches>\bmatches\s*(?=\())|(?P<open>\()|(?P<close>\))|(?P<plus>\+)""",
    re.DOTALL,
)
"""Strings and comments, which may hold anything, and what costs outside them."""
_LITERAL: Final = re.compile(
    r"""\(\s*(?:[rR](?:"(?P<a>[^"]*)"|'(?P<b>[^']*)')|"(?P<c>(?:\\.|[^"\\])*)"|'(?P<d>(?:\\.|[^'\\])*)')\s*\)"""
)
_COUNT: Final = re.compile(r"(?P<group>\))?\{(?P<low>\d+)(?:,(?P<high>\d*))?\}")
_COSTLY: Final = re.compile(r"\\[pPxuUX0-7]")
"""Classes of Unicode, of thousands of ranges each, and escapes behind which a repetition could hide."""


def check_cost(text: str) -> None:
    """Refuses a condition that could take more time or memory than a decision can spare.

    Args:
        text: the condition; it is known to compile, so its parentheses match.

    Raises:
        ValueError: one sentence that says which rule it breaks.
    """
    # A comment may stand between a name and its parenthesis.
    text = _TOKEN.sub(lambda token: " " if token[0].startswith("//") else token[0], text)
    depth, maps, additions = 0, 0, 0
    opened: list[bool] = []
    for token in _TOKEN.finditer(text):
        maps += token["map"] is not None
        additions += token["plus"] is not None
        if token["macro"] or token["open"]:
            opened.append(token["macro"] is not None)
            depth += opened[-1]
        elif token["close"]:
            depth -= opened.pop()
        elif token["matches"]:
            _check_pattern(text, token.end(), inside=depth > 0)
        if depth > MAX_MACRO_DEPTH:
            raise ValueError("a condition may go through a map inside another one, but not through a third inside that")
    if maps > MAX_MAPS:
        raise ValueError("a condition may call map once: each could double what the one before it made")
    if additions > MAX_ADDITIONS:
        raise ValueError(f"a condition may have at most {MAX_ADDITIONS} additions")


def _check_pattern(text: str, start: int, *, inside: bool) -> None:
    if inside:
        raise ValueError("in a condition matches may not stand inside all, exists, filter or map: use contains there")
    literal = _LITERAL.match(text, start)
    if literal is None:
        raise ValueError("in a condition matches takes one text that is written out: TEXT.matches('PATTERN')")
    pattern = literal["a"] or literal["b"] or literal["c"] or literal["d"] or ""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"the pattern of a condition's matches has at most {MAX_PATTERN} characters")
    if _COSTLY.search(pattern):
        raise ValueError(r"the pattern of a condition's matches may not use \p, \x, \u or octal escapes")
    singles, groups = 0, 1
    for count in _COUNT.finditer(pattern):
        most = int(count["high"] or count["low"])
        if count["group"]:
            groups *= max(most, 1)
        else:
            singles += most
    if (len(pattern) + singles) * groups > MAX_PATTERN_COST:
        raise ValueError("the pattern of a condition's matches repeats too much: count lower, or use + and *")
