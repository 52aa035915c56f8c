"""What commands print: a table for people, JSON or YAML for programs, always on standard output."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final

import typer
import yaml
from rich.console import Console, RenderableType

from services.cli.harmless import HarmlessConsole, in_json, is_harmful

_PLAIN_COLUMNS: Final = 120


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


FormatOption = Annotated[Format, typer.Option("--output", "-o", help="How to print the result.")]


def emit(form: Format, result: Any, table: Callable[[], RenderableType]) -> None:
    """Prints a result.

    Args:
        form: table, json or yaml.
        result: plain values for programs; a JSON result is one document.
        table: makes what people see.
    """
    match form:
        case Format.JSON:
            print(in_json(json.dumps(result, indent=2, ensure_ascii=False)))
        case Format.YAML:
            print(yaml.safe_dump(result, sort_keys=False, allow_unicode=not is_harmful(result)), end="")
        case Format.TABLE:
            results().print(table())


def results() -> Console:
    """Gives the console for results; one that is no terminal is 120 columns wide, unless COLUMNS says otherwise."""
    console = HarmlessConsole(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PLAIN_COLUMNS
    return console


def messages() -> Console:
    """Gives the console for everything that is no result: standard error."""
    return HarmlessConsole(stderr=True, highlight=False)


def number(value: float | None, digits: int = 4) -> str:
    """Shows a number in a table; a dash when there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
