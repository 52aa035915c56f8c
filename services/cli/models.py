"""`turnout models`: the packaged versions of a family's variants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.moments import utc
from services.cli.output import Format, FormatOption, emit, number
from services.cli.settings import DEFAULT_CONFIG, ConfigOption, home_of, load_config

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(help="List and show packaged models.", no_args_is_help=True)
FamilyArgument = Annotated[str, typer.Argument(help="Prediction problem, for example dispatch.")]


@app.command("list")
def list_(family: FamilyArgument, config: ConfigOption = DEFAULT_CONFIG, output: FormatOption = Format.TABLE) -> None:
    """List the versions, oldest first, and which ones the configuration uses."""
    from bentos.family import load
    from services.runtime.home import Home
    from services.training.store import list_versions

    load(family)
    used = _used(config, family)
    versions = [
        {
            "variant": version.variant,
            "tag": version.tag,
            "created": version.created,
            "in_use": version.tag in used,
            "accuracy": version.metrics.get("accuracy"),
            "auc": version.metrics.get("auc"),
            "brier": version.metrics.get("brier"),
            "sha256": version.sha256,
        }
        for version in list_versions(Home(home_of(config)), family)
    ]
    emit(output, versions, lambda: _table(family, versions))


@app.command()
def show(
    family: FamilyArgument,
    tag: Annotated[str, typer.Argument(help="Exact tag; else all that the configuration uses.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what versions were trained on and how good they were; verifies their files."""
    from dataclasses import asdict

    from bentos.family import load
    from services.runtime.errors import InvalidArgument, NotFound
    from services.runtime.home import Home
    from services.training.store import show as show_version

    load(family)
    tags = [tag] if tag else sorted(_used(config, family))
    if not tags:
        raise NotFound(
            "tag", f"the configuration uses no model of {family}: name a tag of `turnout models list {family}`"
        )
    home = Home(home_of(config))
    result = {}
    for one in tags:
        manifest = show_version(home, one)
        if manifest.family != family:
            raise InvalidArgument("tag", f"{one} belongs to family {manifest.family!r}, not {family!r}")
        shown = asdict(manifest)
        # The reference rows are for the explanation; nobody reads hundreds of numbers.
        shown["background"] = f"{len(manifest.background)} rows"
        shown["schema_digest"] = f"{manifest.schema_digest:016x}"
        result[one] = shown
    emit(output, result, lambda: _facts(result))


def _used(config: Path, family: str) -> set[str]:
    if not config.exists():
        return set()
    families = load_config(config).families
    variants = families[family].variants.values() if family in families else ()
    return {variant.bento for variant in variants if variant.bento}


def _table(family: str, versions: list[dict[str, Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    if not versions:
        return f"no model of {family} is packaged yet: run `turnout train {family}`"
    # One column: tags are for copying, and stay whole at 80 columns.
    table = Table(f"models of {family}")
    for place, one in enumerate(versions):
        if place:
            table.add_section()
        used = ", in use" if one["in_use"] else ""
        quality = " · ".join(f"{name} {number(one[name])}" for name in ("accuracy", "auc", "brier"))
        table.add_row(escape(f"{one['variant']}{used}\n{one['tag']}\ntrained {utc(one['created'])}\n{quality}"))
    return table


def _facts(result: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table

    tables = []
    for tag, manifest in result.items():
        table = Table("fact", "value", title=tag, title_justify="left")
        for section in ("variant", "sha256", "schema_digest", "features", "outputs", "background"):
            value = manifest[section]
            table.add_row(section, ", ".join(value) if isinstance(value, list | tuple) else str(value))
        for section in ("metrics", "provenance"):
            for name, value in manifest[section].items():
                if not isinstance(value, list | tuple):
                    table.add_row(f"{section}.{name}", _short(value))
        tables.append(table)
    return Group(*tables)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, dict):
        plain = ((name, inner) for name, inner in value.items() if not isinstance(inner, list | tuple | dict))
        return ", ".join(f"{name} {_short(inner)}" for name, inner in plain)
    return str(value)
