"""`turnout bench`: the benchmarks of this checkout."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from services.cli.output import Format, FormatOption, emit, messages
from services.runtime.errors import Unimplemented


def bench(
    only: Annotated[str, typer.Option("--only", help="Only the benchmark of this name.")] = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """Run the benchmarks."""
    from services.cli.progress import Steps

    try:
        suite = importlib.import_module("benchmarks.suite")
    except ModuleNotFoundError as error:
        raise Unimplemented("bench", "the benchmarks are part of a checkout: run this in its folder") from error
    with Steps(messages()) as steps, steps.step("benchmarks") as step:
        result = suite.run_suite(only=only or None, progress=step.doing)
    emit(output, result, lambda: suite.table(result))
