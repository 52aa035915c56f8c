"""`turnout bench`: the benchmarks of this checkout, each figure beside its goal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.output import Format, FormatOption, emit, messages
from services.runtime.errors import NotFound

if TYPE_CHECKING:
    from benchmarks.figures import Figure


def bench(
    only: Annotated[str, typer.Option("--only", help="Only the figure of this name.")] = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """Measure this machine; exit code 1 when a goal does not hold."""
    from benchmarks.suite import run_suite
    from services.cli.progress import Steps

    figures: list[Figure] = []
    with Steps(messages()) as steps, steps.step("measuring") as step:
        try:
            for figure in run_suite(only=only or None, progress=step.doing, say=steps.say):
                figures.append(figure)
                steps.say(f"  {figure.name}: {figure.value:.4g} {figure.unit}")
        except LookupError as error:
            raise NotFound("only", str(error.args[0])) from error
        step.note = f"{len(figures)} figures"
    emit(output, [figure.as_object() for figure in figures], lambda: _table(figures))
    if not all(figure.holds for figure in figures):
        raise typer.Exit(1)


def _table(figures: list[Figure]) -> Any:
    from rich.table import Table

    table = Table("figure")
    table.add_column("value", justify="right")
    for name in ("unit", "goal", "holds"):
        table.add_column(name)
    for figure in figures:
        table.add_row(
            figure.name, f"{figure.value:.4g}", figure.unit, figure.goal_text or "", "yes" if figure.holds else "NO"
        )
    return table
