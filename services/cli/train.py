"""`turnout train`: from past decisions to bentos."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.output import Format, FormatOption, emit, messages
from services.cli.settings import DEFAULT_CONFIG, ConfigOption, home_of
from services.cli.split_options import HubOption
from services.runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bentos.family import Family, Record
    from services.cli.progress import Steps
    from services.training.pipeline import TrainedVariant


def train(
    family: Annotated[str, typer.Argument(help="Prediction problem, for example dispatch.")],
    *,
    data: Annotated[Path | None, typer.Option("--data", help="Past decisions; else the simulator makes them.")] = None,
    city: Annotated[Path | None, typer.Option("--city", help="Folder of a JEMSS city to simulate.")] = None,
    variants: Annotated[str, typer.Option("--variants", help="Only these, for example xgboost,voting.")] = "",
    calls: Annotated[int, typer.Option("--calls", min=100, max=1_000_000, help="Calls to simulate.")] = 20_000,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Of everything random.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Train and evaluate, but package nothing.")] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Search hyper-parameters and show the best; no training.")
    ] = False,
    trials: Annotated[int, typer.Option("--trials", min=1, max=1000, help="--tune: trials a learner.")] = 20,
    use: Annotated[bool, typer.Option("--use", help="Put the new tags into the configuration file.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Tell the hub whether it worked: RETRAINING_FAILED, or its end.")
    ] = False,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Train a family's variants, evaluate them against its rules, package them as bentos."""
    from bentos.family import load
    from services.cli.preparing import evaluations, package_variants, train_variants
    from services.cli.progress import Steps
    from services.cli.retraining import Retraining, reported
    from services.runtime.home import Home

    if report and (dry_run or tune):
        raise InvalidArgument("report", "--report tells of new bentos: it does not go with --dry-run or --tune")
    declared = load(family)
    chosen = [name.strip() for name in variants.split(",") if name.strip()] or None
    told = Retraining(family, chosen)
    with reported(told, hub, config) if report else contextlib.nullcontext():
        with Steps(messages()) as steps:
            records = _records(declared, data=data, city=city, calls=calls, seed=seed, steps=steps)
            if tune:
                _print_search(_search(declared, records, chosen, trials=trials, seed=seed, steps=steps), output)
                return
            trained = train_variants(declared, records, chosen, seed, steps)
            tags = {} if dry_run else package_variants(trained, Home(home_of(config)), steps)
        told.trained = tuple(tags)
        result: dict[str, Any] = {"family": family, "seed": seed, "tags": tags, "evaluation": evaluations(trained)}
        emit(output, result, lambda: _tables(trained, tags))
        if tags:
            messages().print(_configure(config, family, trained, tags, use=use), markup=False, soft_wrap=True)


def _records(
    family: Family, *, data: Path | None, city: Path | None, calls: int, seed: int, steps: Steps
) -> Sequence[Record]:
    from services.cli.records import SIMULATED_FAMILY, Past, city_of, read_all, simulated

    if data is not None and city is not None:
        raise InvalidArgument("data", "give --data or --city, not both")
    if data is None and family.name != SIMULATED_FAMILY:
        raise InvalidArgument("data", f"family {family.name!r} has no simulator: give its past decisions with --data")
    with steps.step(f"reading {data}" if data else "simulating the past") as step:
        if data is not None:
            records = read_all(family, data, step)
        else:
            place = city_of(city, seed, step)
            step.doing(f"{place.name}, {calls} calls")
            records = Past(simulated(place, seed, calls, step))
        unusable = f", {records.skipped} rows of no use" if records.skipped else ""
        step.note = f"{len(records)} decisions{unusable}"
    return records


def _tables(trained: Sequence[TrainedVariant], tags: dict[str, str]) -> Any:
    from rich.console import Group
    from rich.table import Table

    from services.cli.preparing import best, evaluation_table, reliability_table

    champion = next(one for one in trained if one.variant == best(trained))
    parts: list[Any] = [evaluation_table(trained)]
    curve = reliability_table(champion)
    if curve is not None:
        parts.append(curve)
    if tags:
        table = Table("variant", title="Packaged", title_justify="left")
        table.add_column("bento", overflow="fold")
        for variant, tag in tags.items():
            table.add_row(variant, tag)
        parts.append(table)
    return Group(*parts)


def _configure(path: Path, family: str, trained: Sequence[TrainedVariant], tags: dict[str, str], *, use: bool) -> str:
    """Writes the configuration file if there is none, or the tags where that was asked for; says what was done."""
    from services.cli.configuration_file import first_file, use_tags, write_first
    from services.cli.preparing import best

    if not path.exists():
        home = home_of(path)
        shown = home.relative_to(path.parent.resolve()) if home.is_relative_to(path.parent.resolve()) else home
        text = first_file(family, tags, champion=best(trained), home=str(shown), grpc={}, metrics={})
        write_first(path, text)
        return f"wrote {path}; `turnout up` starts everything"
    if use:
        use_tags(path, family, tags)
        return f"{path} uses the new bentos; a running `turnout up` restarts their servers one after the other"
    return f"{path} is unchanged: repeat with --use to put the new tags into it, or edit families.{family}.variants"


def _search(
    family: Family, records: Sequence[Record], chosen: list[str] | None, *, trials: int, seed: int, steps: Steps
) -> dict[str, Any]:
    from dataclasses import asdict

    from services.runtime.errors import Unimplemented
    from services.training.search import search

    found: dict[str, Any] = {}
    for name in chosen or [variant.name for variant in family.variants]:
        with steps.step(f"tuning {name}") as step:

            def progress(done: int, total: int, loss: float) -> None:
                step.doing(f"best loss {loss:.5f}")
                step.update(done, total)

            try:
                result = search(family, records, name, trials=trials, seed=seed, progress=progress)
            except Unimplemented as error:
                # Blends have nothing of their own to search; named explicitly they are refused.
                if chosen:
                    raise
                step.note = error.message
            else:
                found[name] = asdict(result)
    return found


def _print_search(found: dict[str, Any], output: Format) -> None:
    from rich.table import Table

    def table() -> Table:
        title = "Loss on folds of the past; the newest decisions were not looked at"
        shown = Table("variant", title=title, title_justify="left")
        for name in ("trials", "declared", "best", "gained"):
            shown.add_column(name, justify="right")
        shown.add_column("best parameters")
        for variant, result in found.items():
            gained = result["declared_loss"] - result["loss"]
            losses = f"{result['declared_loss']:.5f}", f"{result['loss']:.5f}", f"{gained:.5f}"
            parameters = ", ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in result["parameters"].items()
            )
            shown.add_row(variant, str(result["trials"]), *losses, parameters or "as declared")
        return shown

    emit(output, found, table)
