"""YAML as a tree of bounded size: read once, and refused before its aliases, merges or numbers cost anything.

A short file may stand for an endless one: an alias repeats what it names, `<<` copies it, and both may be nested (400
bytes took the loader minutes); a number to base 60 takes time with the square of its length.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

MAX_NODES: Final = 500_000
"""Values of a file, those that aliases repeat counted each time."""
MAX_SCALAR: Final = 4096
"""Characters of a value; no text or number of a configuration has as many."""


class TooLarge(yaml.MarkedYAMLError):
    """The tree is over a bound; the mark says where."""


def compose(text: bytes | str) -> Any:
    """Gives the tree of a document, None for an empty one.

    Raises:
        yaml.YAMLError: it is not YAML, or TooLarge.
        RecursionError: it is nested too deep.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None:
        _count(root, {})
    return root


def load(text: bytes | str) -> Any:
    """Gives the plain values of a document; raises as `compose` does, and what constructors of values raise."""
    compose(text)
    return yaml.safe_load(text)


def _count(node: Any, known: dict[int, int]) -> int:
    """Gives how many values a node stands for; a node that aliases name is counted once and taken many times."""
    if id(node) in known:
        found = known[id(node)]
        if found == 0:
            raise TooLarge(problem="an alias stands within what it names", problem_mark=node.start_mark)
        return found
    known[id(node)] = 0
    size = 1
    match node:
        case yaml.ScalarNode():
            if len(node.value) > MAX_SCALAR:
                problem = f"a value has over {MAX_SCALAR} characters"
                raise TooLarge(problem=problem, problem_mark=node.start_mark)
        case yaml.SequenceNode():
            size += sum(_count(one, known) for one in node.value)
        case yaml.MappingNode():
            size += sum(_count(key, known) + _count(value, known) for key, value in node.value)
        case _:
            raise TypeError(f"a tree of YAML holds no {type(node).__name__}")
    if size > MAX_NODES:
        raise TooLarge(problem=f"over {MAX_NODES} values, aliases included", problem_mark=node.start_mark)
    known[id(node)] = size
    return size
