"""`turnout split layers`: mutually exclusive experiments."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.output import Format, FormatOption, emit
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_history import history_table, plain_revision
from services.cli.split_options import HubOption, WhyOption, connect, layer_slice
from services.cli.split_shown import plain_slice, slice_words
from services.runtime.errors import NotFound

if TYPE_CHECKING:
    from turnout.v1 import experiment_pb2

app = typer.Typer(help="Show and change layers, which keep experiments apart.", no_args_is_help=True)
LayerArgument = Annotated[str, typer.Argument(metavar="NAME", help="Layer.")]


@app.command("list")
def list_(hub: HubOption = None, config: ConfigOption = DEFAULT_CONFIG, output: FormatOption = Format.TABLE) -> None:
    """List the layers and who has which slice of them."""
    with connect(hub, config) as server:
        found = server.experiments()
    _print(found, list(found.layers), output)


@app.command("set")
def set_(
    name: LayerArgument,
    *,
    salt: Annotated[str, typer.Option("--salt", help="Key of the hash; else the present one, or a random one.")] = "",
    within: Annotated[
        str | None, typer.Option("--within", help='Slice of another layer: LAYER:0-4999; "" for none.')
    ] = (None),
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make or change a layer."""
    from turnout.v1 import experiment_pb2

    with connect(hub, config) as server:
        present = {layer.name: layer for layer in server.experiments().layers}.get(
            name, experiment_pb2.Layer(name=name)
        )
        base = present.revision
        present.salt = salt or present.salt or secrets.token_hex(8)
        if within is not None:
            present.ClearField("within")
        if within:
            given: Any = layer_slice("--within", within)
            present.within.CopyFrom(experiment_pb2.LayerSlice(**given))
        changed = server.set_layer(experiment_pb2.SetLayerRequest(layer=present, base_revision=base, why=why))
        _print(server.experiments(), [changed], output)


@app.command()
def delete(
    name: LayerArgument,
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Remove a layer that nothing uses."""
    from turnout.v1 import experiment_pb2

    with connect(hub, config) as server:
        revisions = {layer.name: layer.revision for layer in server.experiments().layers}
        if name not in revisions:
            raise NotFound("name", f"there is no layer {name[:64]!r}")
        server.delete_layer(experiment_pb2.DeleteLayerRequest(name=name, base_revision=revisions[name], why=why))
    emit(output, {"name": name, "deleted": True}, lambda: f"layer {name} is deleted")


@app.command()
def history(
    name: LayerArgument,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most this many, newest first.")] = 20,
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show who changed what in a layer, when and why."""
    with connect(hub, config) as server:
        found = server.layer_revisions(name, limit)
    revisions = [
        plain_revision(one) | {"layer": _definition(one.layer) if one.HasField("layer") else None} for one in found
    ]
    result = {"name": name, "revisions": revisions}
    emit(output, result, lambda: history_table(result))


def _print(given: experiment_pb2.ExperimentSet, layers: list[experiment_pb2.Layer], output: Format) -> None:
    result = {"layers": [_plain(layer, given) for layer in layers]}

    def table() -> Any:
        from rich.table import Table

        if not result["layers"]:
            return "No layer is defined: make one with `turnout split layers set NAME`."
        shown = Table(title="layers", title_justify="left")
        for column in ("layer", "within", "slices", "revision"):
            shown.add_column(column, justify="right" if column == "revision" else "left")
        for layer in result["layers"]:
            slices = [f"{s['start']} to {s['end'] - 1}: {s['experiment'] or s['child']}" for s in layer["slices"]]
            within = slice_words(layer["within"]) if layer["within"] else ""
            shown.add_row(layer["name"], within, "\n".join(slices), str(layer["revision"]))
        return shown

    emit(output, result, table)


def _plain(layer: experiment_pb2.Layer, given: experiment_pb2.ExperimentSet) -> dict[str, Any]:
    slices = [
        plain_slice(one.layer) | {"experiment": one.name, "child": ""}
        for one in given.experiments
        if one.layer.layer == layer.name
    ]
    slices += [
        plain_slice(other.within) | {"experiment": "", "child": f"layer {other.name}"}
        for other in given.layers
        if other.within.layer == layer.name
    ]
    return _definition(layer) | {
        "slices": sorted(slices, key=lambda one: one["start"]),
    }


def _definition(layer: experiment_pb2.Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "salt": layer.salt,
        "revision": layer.revision,
        "within": plain_slice(layer.within) if layer.HasField("within") else None,
    }
