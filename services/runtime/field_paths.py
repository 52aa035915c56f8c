"""Which field of a message is at fault: a model's own place for it, written as proto fields."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from pydantic import ValidationError

from services.runtime.errors import InvalidArgument
from services.runtime.experiment import Frozen

_KEYED: Final = ("arms", "overrides", "shadows", "weights")
"""Fields whose keys stand in brackets, since they are no field names."""
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
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        raise InvalidArgument(field, f"{field}: {message}" if field else message) from error


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
