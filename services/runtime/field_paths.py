"""Which field of a message is at fault: a model's own place for it, written as proto fields."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from services.runtime.errors import InvalidArgument
from services.runtime.experiment import FAMILY_NAME, NAME, Frozen

_KEYED: Final = ("arms", "overrides", "shadows", "weights")
"""Fields whose keys stand in brackets, since they are no field names."""
_PATTERNS: Final = {
    NAME: "1 to 63 letters, digits, '_', '.' and '-', the first one a letter or a digit",
    FAMILY_NAME: "1 to 63 small letters, digits and '_', the first one a letter",
    r"^[0-9a-f]{64}$": "a SHA-256 in 64 hexadecimal digits",
}
_LIMITS: Final = {
    "greater_than_equal": ("must be at least {:g}", "ge"),
    "less_than_equal": ("must be at most {:g}", "le"),
    "greater_than": ("must be above {:g}", "gt"),
    "less_than": ("must be under {:g}", "lt"),
    "string_too_long": ("must be at most {} characters", "max_length"),
    "string_too_short": ("must have at least {} characters", "min_length"),
    "too_long": ("must have at most {} entries", "max_length"),
    "too_short": ("must have at least {} entries", "min_length"),
}
"""How a limit is told, and under which name it stands in the error."""
_Value = TypeVar("_Value", bound=Frozen)


def checked(model: type[_Value], form: dict[str, Any]) -> _Value:
    """Checks a form by its model.

    Raises:
        InvalidArgument: names the field at fault.
    """
    try:
        return model.model_validate(form)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = (*first["loc"], *first.get("ctx", {}).get("path", ()))
        field = field_path(tuple(part for part in path if part != "[key]"))
        message = sentence(first)
        raise InvalidArgument(field, f"{field}: {message}" if field else message) from error


def sentence(fault: ErrorDetails) -> str:
    """Says what a model finds wrong with a value, in words for whoever wrote it."""
    kind, limits = fault["type"], fault.get("ctx", {})
    if kind in _LIMITS:
        words, name = _LIMITS[kind]
        return "must not be empty" if limits[name] == 1 and name == "min_length" else words.format(limits[name])
    if kind == "string_pattern_mismatch" and limits["pattern"] in _PATTERNS:
        return f"must be {_PATTERNS[limits['pattern']]}"
    if kind == "finite_number":
        return "must be a finite number"
    message = fault["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def below(field: str, error: InvalidArgument) -> InvalidArgument:
    """Gives the same error, its field counted from a message further out."""
    return InvalidArgument(
        f"{field}.{error.field}" if error.field else field,
        f"{field}.{error.message}" if error.field else f"{field}: {error.message}",
    )


def field_path(path: tuple[str | int, ...], *, keyed: tuple[str, ...] = _KEYED) -> str:
    """Writes a place as proto fields: dots between them, positions and keys in brackets."""
    text, before = "", ""
    for part in path:
        named = str(part)[:64]
        if isinstance(part, int) or before in keyed:
            text += f"[{named}]"
            before = ""
        else:
            text += f".{named}" if text else named
            before = named
    return text
