"""Whether a JSON value is as a schema says: the words that our documents use."""

from __future__ import annotations

import re
from typing import Any

_NAMES: dict[type, set[str]] = {
    bool: {"boolean"},
    int: {"integer", "number"},
    float: {"number"},
    str: {"string"},
    dict: {"object"},
    list: {"array"},
}


def resolve(reference: str, whole: dict[str, Any]) -> Any:
    """Gives what a $ref points to, inside the same document."""
    here: Any = whole
    for part in reference.removeprefix("#/").split("/"):
        here = here[part]
    return here


def references(value: Any) -> set[str]:
    """Gives every $ref of a document."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(part) for part in value.values()))
    return set().union(*(references(part) for part in value)) if isinstance(value, list) else set()


def fits(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Tells whether a value is as a schema of the document `whole` says."""
    if "$ref" in schema:
        return fits(value, resolve(schema["$ref"], whole), whole)
    if "oneOf" in schema:
        return sum(fits(value, one, whole) for one in schema["oneOf"]) == 1
    kinds = schema.get("type", [])
    if kinds and not _NAMES[type(value)] & set([kinds] if isinstance(kinds, str) else kinds):
        return False
    return _content_fits(value, schema, whole)


def _content_fits(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    match value:
        case dict():
            return _object_fits(value, schema, whole)
        case list():
            return all(fits(one, schema["items"], whole) for one in value)
        case str():
            return value in schema.get("enum", [value]) and bool(re.search(schema.get("pattern", ""), value))
        case bool():
            return True
        case _:
            return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))


def _object_fits(value: dict[str, Any], schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    if not set(schema.get("required", [])) <= set(value) or (more is False and not set(value) <= set(known)):
        return False
    others = more if isinstance(more, dict) else {}
    return all(fits(one, known.get(name, others), whole) for name, one in value.items())
