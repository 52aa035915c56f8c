"""Random messages of any protobuf type, for laws that hold for whatever a caller may send."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

_WORDS = ("dispatch", "severity", "hour", "call_type", "fire", "fake", "rules", "value", "FP64", "BYTES", "d-1", "")
_TEXTS = st.sampled_from(_WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_DOUBLE: st.sampled_from([0.0, 1.0, 4.0]) | st.floats(),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.TYPE_INT64: st.sampled_from([0, 1, 2]) | st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: st.sampled_from([0, 1, 50]) | st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_ENUM: st.sampled_from([0, 1, 2]) | st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_STRING: _TEXTS,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=16),
}


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Gives messages of a type: each field now and then left out, lists and maps of at most three entries."""
    fields: Any = kind.DESCRIPTOR.fields
    optional = {field.name: _field(field) for field in fields}
    return st.fixed_dictionaries({}, optional=optional).map(lambda fields: kind(**_once(kind, fields)))


def _field(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        key, value = kind.fields_by_name["key"], kind.fields_by_name["value"]
        return st.dictionaries(_value(key), _value(value), max_size=3)
    return st.lists(_value(field), max_size=3) if field.is_repeated else _value(field)


def _value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    return messages(GetMessageClass(field.message_type)) if field.message_type is not None else _SCALARS[field.type]


def _once(kind: type[Message], fields: dict[str, Any]) -> dict[str, Any]:
    """Keeps one field of each oneof."""
    kept: dict[str, Any] = {}
    taken: set[str] = set()
    for name, value in fields.items():
        choice = kind.DESCRIPTOR.fields_by_name[name].containing_oneof
        if choice is None or choice.name not in taken:
            kept[name] = value
        if choice is not None:
            taken.add(choice.name)
    return kept
