"""Conditions of targeting rules in CEL, the expression language of Kubernetes and Envoy: typed, compiled once.

A condition sees `tenant` (string), `metadata` (map of strings), `numbers` (map of doubles), `categories` (map of
strings) and `flags` (map of bools) and gives a bool. What it may cost is bounded by `services.runtime.condition_cost`.
What cannot be evaluated (a feature that the row does not give) is None, not an error.

Source: https://cel.dev and https://github.com/google/cel-spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from services.runtime.condition_cost import check_cost

MAX_CONDITION_BYTES: Final = 1024
_VARIABLES: Final = {
    "tenant": (),
    "metadata": ("STRING",),
    "numbers": ("DOUBLE",),
    "categories": ("STRING",),
    "flags": ("BOOL",),
}


@dataclass(frozen=True, slots=True)
class Row:
    """What a condition sees."""

    tenant: str
    metadata: Mapping[str, str]
    numbers: Mapping[str, float]
    categories: Mapping[str, str]
    flags: Mapping[str, bool]


class Condition:
    """A compiled condition; immutable, may be shared among threads."""

    def __init__(self, text: str, expression: Any) -> None:
        self.text = text
        self._expression = expression

    def holds(self, row: Row) -> bool | None:
        """Tells whether the condition holds for a row; None when it cannot be evaluated."""
        try:
            value = self._expression.eval(
                data={
                    "tenant": row.tenant,
                    "metadata": row.metadata,
                    "numbers": row.numbers,
                    "categories": row.categories,
                    "flags": row.flags,
                }
            ).value()
        except Exception:  # noqa: BLE001 - a rule that cannot be evaluated never costs a caller its answer
            return None
        return value if isinstance(value, bool) else None


@lru_cache(maxsize=4096)
def compile_condition(text: str) -> Condition:
    """Compiles a condition: under a millisecond, once for each text.

    Raises:
        ValueError: it is too long, does not compile, does not give a bool, or may cost too much; the text says where.
    """
    if len(text.encode()) > MAX_CONDITION_BYTES:
        raise ValueError(f"a condition is at most {MAX_CONDITION_BYTES} bytes")
    try:
        expression = _environment().compile(text)
    except RuntimeError as error:
        raise ValueError(f"not a CEL condition: {_first_line(str(error))}") from error
    kind = expression.return_type()
    if str(kind) != "BOOL":
        raise ValueError(f"a condition must give a bool, not {str(kind).lower()}")
    check_cost(text)
    return Condition(text, expression)


@lru_cache(maxsize=1)
def _environment() -> Any:
    # Loaded when the first condition is: 7 MB that a router without conditions need not carry.
    from cel_expr_python import cel

    def kind(parts: tuple[str, ...]) -> Any:
        return cel.Type.Map(cel.Type.STRING, getattr(cel.Type, parts[0])) if parts else cel.Type.STRING

    return cel.NewEnv(variables={name: kind(parts) for name, parts in _VARIABLES.items()})


def _first_line(message: str) -> str:
    line = message.splitlines()[0]
    return line.partition("ERROR: <input>:")[2] or line
