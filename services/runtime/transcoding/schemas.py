"""JSON schemas of messages and enums, from their descriptors, with their comments."""

from __future__ import annotations

import importlib.resources
import json
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, MethodDescriptor

_F: Final = FieldDescriptor
_SCALARS: Final[dict[int, dict[str, Any]]] = {
    _F.TYPE_BOOL: {"type": "boolean"},
    _F.TYPE_STRING: {"type": "string"},
    _F.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    _F.TYPE_INT32: {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    _F.TYPE_SINT32: {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    _F.TYPE_SFIXED32: {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    _F.TYPE_UINT32: {"type": "integer", "format": "uint32", "minimum": 0, "maximum": 2**32 - 1},
    _F.TYPE_FIXED32: {"type": "integer", "format": "uint32", "minimum": 0, "maximum": 2**32 - 1},
    # 64 bits do not fit into a JavaScript number: replies have them as text, requests may have either.
    **{
        kind: {"type": ["string", "integer"], "format": "int64", "pattern": "^-?[0-9]+$"}
        for kind in (_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64)
    },
    **{
        kind: {"type": ["string", "integer"], "format": "uint64", "pattern": "^[0-9]+$", "minimum": 0}
        for kind in (_F.TYPE_UINT64, _F.TYPE_FIXED64)
    },
    **{
        kind: {"oneOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]}
        for kind in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT)
    },
}
_WELL_KNOWN: Final[dict[str, dict[str, Any]]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Empty": {"type": "object"},
}


class Schemas:
    """Collects the schemas that a document needs, each once, by full name."""

    def __init__(self) -> None:
        self.components: dict[str, dict[str, Any]] = {}

    def reference(self, descriptor: Any) -> dict[str, Any]:
        """Gives the reference to a message's or an enum's schema, and collects it and all that it needs."""
        if descriptor.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[descriptor.full_name])
        if descriptor.full_name not in self.components:
            self.components[descriptor.full_name] = {}
            is_enum = isinstance(descriptor, EnumDescriptor)
            self.components[descriptor.full_name] = _enum(descriptor) if is_enum else self._message(descriptor)
        return {"$ref": f"#/components/schemas/{descriptor.full_name}"}

    def field(self, field: Any) -> dict[str, Any]:
        """Gives a field's schema, with its comment."""
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values = self._single(field.message_type.fields_by_name["value"])
            schema: dict[str, Any] = {"type": "object", "additionalProperties": values}
        elif field.is_repeated:
            schema = {"type": "array", "items": self._single(field)}
        else:
            schema = self._single(field)
        text = comment(field)
        one_of = field.containing_oneof
        if one_of is not None and len(one_of.fields) > 1:
            text = f"{text} At most one of {', '.join(other.name for other in one_of.fields)}."
        return {**schema, "description": text} if text else schema

    def _single(self, field: Any) -> dict[str, Any]:
        if field.message_type is not None:
            return self.reference(field.message_type)
        if field.enum_type is not None:
            return self.reference(field.enum_type)
        return dict(_SCALARS[field.type])

    def _message(self, descriptor: Descriptor) -> dict[str, Any]:
        properties = {field.name: self.field(field) for field in descriptor.fields}
        schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        text = comment(descriptor)
        return {**schema, "description": text} if text else schema


def comment(descriptor: Any) -> str:
    """Gives the comment above a message, field, enum, value, service or method; "" without."""
    file = descriptor.containing_service.file if isinstance(descriptor, MethodDescriptor) else descriptor.file
    return _comments(file).get(descriptor.full_name, "")


def comment_of_value(enum: EnumDescriptor, name: str) -> str:
    """Gives the comment above an enum's value; "" without."""
    return _comments(enum.file).get(f"{enum.full_name}.{name}", "")


def _enum(descriptor: EnumDescriptor) -> dict[str, Any]:
    lines = [comment(descriptor)]
    lines += [f"- `{value.name}`: {comment_of_value(descriptor, value.name)}" for value in descriptor.values]
    names = [value.name for value in descriptor.values]
    # A value that one side does not know yet travels as its number.
    forms = [{"type": "string", "enum": names}, {"type": "integer", "format": "int32"}]
    return {"oneOf": forms, "description": "\n".join(filter(None, lines))}


@cache
def _comments(file: FileDescriptor) -> dict[str, str]:
    """Reads the comments that were written beside a stub; none where the stub is somebody else's."""
    folder, _, name = file.name.rpartition("/")
    try:
        place = importlib.resources.files(folder.replace("/", ".")) / f"{name.removesuffix('.proto')}_comments.json"
        found: dict[str, str] = json.loads(place.read_text("utf-8"))
    except (ModuleNotFoundError, FileNotFoundError):
        return {}
    return found
