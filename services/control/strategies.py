"""Describes the strategies from their configuration models, which are the only list of them."""

from __future__ import annotations

import inspect
from typing import Any, get_args

from pydantic_core import PydanticUndefined

from services.runtime.experiment import Frozen, Strategy
from turnout.v1 import experiment_pb2


def describe_strategies() -> list[experiment_pb2.StrategyDescription]:
    """Gives each strategy with its summary and its parameters, as they stand in turnout.yaml."""
    union, _ = get_args(Strategy)
    return [_describe(model) for model in get_args(union)]


def _describe(model: type[Frozen]) -> experiment_pb2.StrategyDescription:
    (name,) = get_args(model.model_fields["kind"].annotation)
    summary = " ".join(inspect.cleandoc(model.__doc__ or "").split("\n\n", maxsplit=1)[0].split())
    schema = model.model_json_schema()
    parameters = [
        _parameter(field, schema["properties"][field], schema.get("$defs", {}))
        for field in model.model_fields
        if field != "kind"
    ]
    return experiment_pb2.StrategyDescription(name=name, summary=summary, parameters=parameters)


def _parameter(field: str, schema: dict[str, Any], shared: dict[str, Any]) -> str:
    """Gives one line: the name, what it may be, and the default."""
    limits = dict(schema)
    if "$ref" in limits:
        limits |= shared[limits["$ref"].rpartition("/")[2]]
    parts = []
    if "enum" in limits:
        parts.append("one of " + ", ".join(str(value) for value in limits["enum"]))
    elif "minimum" in limits and "maximum" in limits:
        parts.append(f"{limits['minimum']} to {limits['maximum']}")
    elif "minimum" in limits:
        parts.append(f"at least {limits['minimum']}")
    elif "maxItems" in limits:
        parts.append(f"at most {limits['maxItems']} entries")
    elif "type" in limits:
        parts.append(str(limits["type"]))
    default = schema.get("default", PydanticUndefined)
    if default is not PydanticUndefined:
        parts.append(f"default {default!r}" if default != [] else "default none")
    return f"{field}: {'; '.join(parts)}"
