"""Requests from JSON and from query parameters, and replies to JSON. Fields have the protos' own names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from services.runtime.errors import InvalidArgument

MAX_DEPTH: Final = 32
MAX_PARAMETERS: Final = 1000
_MAX_SENTENCE: Final = 300


def from_json(body: bytes, empty: Message) -> Message:
    """Reads a request; an empty body is an empty request.

    Raises:
        InvalidArgument: not JSON, nested too deep, or not this message.
    """
    if not body.strip():
        return empty
    try:
        content = json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise InvalidArgument("", "the body must be one JSON object without repeated names, in UTF-8") from None
    if not isinstance(content, dict):
        raise InvalidArgument("", "the body must be one JSON object")
    return _parse(content, empty)


def from_query(parameters: Sequence[tuple[str, str]], empty: Message) -> Message:
    """Reads a request from query parameters: `field=value`, `outer.inner=value`, repeated for repeated fields.

    Raises:
        InvalidArgument: names the parameter that is no field of the message, or whose value is none of its kind.
    """
    if len(parameters) > MAX_PARAMETERS:
        raise InvalidArgument("", f"at most {MAX_PARAMETERS} parameters")
    content: dict[str, Any] = {}
    for name, value in parameters:
        _place(content, name, value, empty)
    return _parse(content, empty)


def to_json(message: Message) -> str:
    """Gives a message in JSON on one line; what has its default value stands there too."""
    return json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=None,
        ensure_ascii=False,
    )


def _parse(content: dict[str, Any], empty: Message) -> Message:
    try:
        return json_format.ParseDict(content, empty, max_recursion_depth=MAX_DEPTH)
    except (json_format.ParseError, RecursionError, ValueError, TypeError, AttributeError) as error:
        # protobuf's sentence names the field; it quotes the caller's own values, never ours.
        reason = " ".join(str(error).split())[:_MAX_SENTENCE]
        raise InvalidArgument("", f"the request is not a {empty.DESCRIPTOR.full_name}: {reason}") from None


def _place(content: dict[str, Any], name: str, value: str, message: Message) -> None:
    *outer, last = name.split(".")
    descriptor = message.DESCRIPTOR
    here = content
    for part in outer:
        field = descriptor.fields_by_name.get(part)
        if field is None or field.message_type is None or field.is_repeated:
            raise InvalidArgument(name[:64], f"{name[:64]} is not a field that a parameter can set")
        descriptor = field.message_type
        here = here.setdefault(part, {})
    field = descriptor.fields_by_name.get(last)
    if field is None or field.message_type is not None:
        raise InvalidArgument(name[:64], f"{name[:64]} is not a field that a parameter can set")
    if field.is_repeated:
        here.setdefault(last, []).append(_scalar(field, name, value))
    elif last in here:
        raise InvalidArgument(name[:64], f"{name[:64]} stands there twice")
    else:
        here[last] = _scalar(field, name, value)


def _scalar(field: Any, name: str, value: str) -> Any:
    if field.type != FieldDescriptor.TYPE_BOOL:
        return value
    if value not in {"true", "false"}:
        raise InvalidArgument(name[:64], f"{name[:64]} must be true or false")
    return value == "true"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("repeated")
    for name in found:
        # Half of a surrogate pair, which JSON can write and UTF-8 cannot, makes protobuf's look-up itself break.
        name.encode()
    return found


def _refuse_constant(_: str) -> None:
    # NaN and infinities have their own text form in protobuf's JSON.
    raise ValueError("not JSON")
