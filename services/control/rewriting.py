"""Rewrites one experiment in the text of turnout.yaml; everything else keeps its place, its words and its comments."""

from __future__ import annotations

import io
import re
from typing import Any, Final

from services.runtime.errors import FailedPrecondition
from services.runtime.experiment import Experiment

_WIDTH: Final = 1 << 20
"""Lines are never folded."""


def rewrite(text: str, family: str, before: Experiment, after: Experiment) -> str:
    """Gives the text with `before`, the experiment of a family, turned into `after`.

    Raises:
        FailedPrecondition: the text is written in a way that cannot be kept.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = _WIDTH
    yaml.indent(**_indentation(text))
    # An anchor's dots and a document's start belong to the text and stay.
    yaml.explicit_start = bool(re.search(r"^---(\s|$)", text, re.MULTILINE))
    out = io.StringIO()
    try:
        document = yaml.load(text)
        _edit(document["experiments"][family], before, after)
        yaml.dump(document, out)
    except (YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise FailedPrecondition("", "the file is written in a way that cannot be kept: change it by hand") from error
    return out.getvalue()


def _edit(node: Any, before: Experiment, after: Experiment) -> None:
    _put(node, "revision", after.revision, 0)
    if before.paused != after.paused:
        _put(node, "paused", after.paused, 1)
    for name, arm in after.arms.items():
        if arm.weight != before.arms[name].weight:
            weight = int(arm.weight) if arm.weight.is_integer() else arm.weight
            _put(node["arms"][name], "weight", weight, max(0, len(node["arms"][name]) - 1))
    if before.strategy != after.strategy:
        _merge(node["strategy"], after)


def _merge(node: Any, after: Experiment) -> None:
    """Turns a strategy into another one: keys that stay keep their comments, defaults are not written anew."""
    whole = after.strategy.model_dump(mode="json")
    short = after.strategy.model_dump(mode="json", exclude_defaults=True)
    for key in [key for key in node if key not in whole]:
        del node[key]
    for key, value in whole.items():
        if key in node and node[key] != value:
            node[key] = value
    # From the last to the first, each right after the first key: so they end up in the model's order.
    for key in reversed([key for key in short if key not in node]):
        node.insert(min(len(node), 1), key, short[key])


def _put(node: Any, key: str, value: object, place: int) -> None:
    """Sets a key; a new one goes to a place before the last, since what follows the last key hangs on it."""
    if key in node:
        node[key] = value
    else:
        node.insert(place, key, value)


def _indentation(text: str) -> dict[str, int]:
    """Finds how a file is indented: the first nested key tells for mappings, the first item of a list for lists."""
    nested = re.search(r"^[^\s#][^#\n]*:[ \t]*(?:#.*)?\n(?:[ \t]*(?:#.*)?\n)*( +)(?![-# ])", text, re.MULTILINE)
    item = re.search(r"^( *)[^\s#-][^#\n]*:[ \t]*(?:#.*)?\n(?:[ \t]*(?:#.*)?\n)*( *)- ", text, re.MULTILINE)
    mapping = len(nested[1]) if nested else 2
    offset = max(0, len(item[2]) - len(item[1])) if item else mapping
    return {"mapping": mapping, "sequence": offset + 2, "offset": offset}
