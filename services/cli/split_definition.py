"""`turnout split create`, `update` and `delete`: whole definitions, from a file, from options, or from both."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli.output import Format, FormatOption, emit
from services.cli.settings import DEFAULT_CONFIG, ConfigOption
from services.cli.split_options import (
    HubOption,
    NameArgument,
    UnreadyOption,
    WhyOption,
    connect,
    layer_slice,
    pairs,
    parse_weights,
)
from services.cli.split_shown import print_one
from services.runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from turnout.v1 import experiment_pb2

MAX_BYTES: Final = 4 << 20
ARM_FORM: Final = "NAME=VARIANT:WEIGHT"
FileOption = Annotated[
    str, typer.Option("--file", "-f", help="The definition in YAML, as turnout.yaml has it; - reads standard input.")
]
ArmsOption = Annotated[
    list[str] | None, typer.Option("--arm", help="An arm, all of them: NAME=VARIANT:WEIGHT; repeat it.")
]
ChampionOption = Annotated[str, typer.Option("--champion", help="Arm that gets everything while paused.")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help='Only this tenant; "" for all.')]
WhenOption = Annotated[str | None, typer.Option("--when", help='Condition in CEL; "" for always.')]
PriorityOption = Annotated[int | None, typer.Option("--priority", help="Higher is asked first, -1000 to 1000.")]
LayerOption = Annotated[str | None, typer.Option("--layer", help='Slice of a layer: LAYER:0-4999; "" for none.')]
HoldOutOption = Annotated[float | None, typer.Option("--hold-out", help="Percent of the units for the champion.")]
OverrideOption = Annotated[list[str] | None, typer.Option("--override", help="One unit's arm: UNIT=ARM; repeat it.")]
ShadowOption = Annotated[
    list[str] | None, typer.Option("--shadow", help="Variant that gets a copy of the rows: VARIANT=PERCENT; repeat it.")
]


def create(
    name: NameArgument,
    *,
    family: Annotated[str, typer.Option("--family", help="Prediction problem; else the name.")] = "",
    file: FileOption = "",
    arm: ArmsOption = None,
    champion: ChampionOption = "",
    strategy: Annotated[
        str, typer.Option("--strategy", help="random, round_robin or weighted; time: use --file.")
    ] = "",
    salt: Annotated[str, typer.Option("--salt", help="Key of the hash; else a random one.")] = "",
    tenant: TenantOption = None,
    when: WhenOption = None,
    priority: PriorityOption = None,
    layer: LayerOption = None,
    hold_out: HoldOutOption = None,
    override: OverrideOption = None,
    shadow: ShadowOption = None,
    allow_unready: UnreadyOption = False,
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make an experiment."""
    from turnout.v1 import experiment_pb2

    form = {"salt": secrets.token_hex(8), "strategy": {"kind": "weighted"}} | read_form(file)
    form |= {"name": name, "family": family or form.get("family", name)}
    _overlay(form, arm=arm, champion=champion, strategy=strategy, salt=salt)
    _around(
        form,
        tenant=tenant,
        when=when,
        priority=priority,
        layer=layer,
        hold_out=hold_out,
        override=override,
        shadow=shadow,
    )
    if not form.get("arms") or not isinstance(form["arms"], dict):
        raise InvalidArgument("arm", "name the arms: --arm NAME=VARIANT:WEIGHT for each of them, or --file")
    form.setdefault("champion", next(iter(form["arms"])))
    request = experiment_pb2.CreateExperimentRequest(experiment=_message(form), why=why, allow_unready=allow_unready)
    with connect(hub, config) as server:
        print_one(server.create(request), output)


def update(
    name: NameArgument,
    *,
    file: FileOption = "",
    arm: ArmsOption = None,
    champion: ChampionOption = "",
    salt: Annotated[str, typer.Option("--salt", help="New key of the hash: deals all units anew.")] = "",
    tenant: TenantOption = None,
    when: WhenOption = None,
    priority: PriorityOption = None,
    layer: LayerOption = None,
    hold_out: HoldOutOption = None,
    override: OverrideOption = None,
    shadow: ShadowOption = None,
    revision: Annotated[
        int, typer.Option("--revision", help="Revision that the file is based on; else the newest.")
    ] = 0,
    allow_unready: UnreadyOption = False,
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Change anything of an experiment: with --file its whole definition, else only what is named.

    --arm, --override and --shadow replace all arms, overrides or shadows; one empty value takes all of them away.
    """
    from turnout.v1 import experiment_pb2

    with connect(hub, config) as server:
        present = server.experiment(name)
        form = ({"salt": present.salt, "family": present.family} | read_form(file)) if file else definition(present)
        form["name"] = name
        _overlay(form, arm=arm, champion=champion, strategy="", salt=salt)
        _around(
            form,
            tenant=tenant,
            when=when,
            priority=priority,
            layer=layer,
            hold_out=hold_out,
            override=override,
            shadow=shadow,
        )
        request = experiment_pb2.UpdateExperimentRequest(
            experiment=_message(form),
            base_revision=revision or present.revision,
            why=why,
            allow_unready=allow_unready,
        )
        print_one(server.update(request), output)


def delete(
    name: NameArgument,
    why: WhyOption = "",
    hub: HubOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """End an experiment; its history stays, and `turnout split undo` brings it back."""
    from turnout.v1 import experiment_pb2

    with connect(hub, config) as server:
        revision = server.experiment(name).revision
        server.delete(experiment_pb2.DeleteExperimentRequest(name=name, base_revision=revision, why=why))
    emit(output, {"name": name, "deleted": True}, lambda: f"{name} is deleted; `turnout split undo {name}` undoes it")


def definition(experiment: experiment_pb2.Experiment) -> dict[str, Any]:
    """Gives an experiment as turnout.yaml writes it, under its name; what has its default is left out."""
    from services.runtime.experiment_messages import experiment_from_message

    checked = experiment_from_message(experiment)
    form = checked.model_dump(mode="json", exclude_defaults=True, exclude={"name", "revision"})
    form["strategy"]["kind"] = checked.strategy.kind
    for name, arm in checked.arms.items():
        form["arms"][name]["weight"] = arm.weight
    return form


def read_form(file: str) -> dict[str, Any]:
    """Reads a definition; an empty name gives an empty one.

    Raises:
        InvalidArgument: it is no YAML mapping, or too long.
    """
    if not file:
        return {}
    import yaml

    from services.runtime.yaml_tree import load

    try:
        text = sys.stdin.read(MAX_BYTES + 1) if file == "-" else Path(file).read_text(encoding="utf-8")
        form = load(text) if len(text) <= MAX_BYTES else None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument("file", f"{file} is not valid YAML in UTF-8") from error
    if not isinstance(form, dict) or not all(isinstance(key, str) for key in form):
        raise InvalidArgument("file", f"{file} must be a mapping of at most {MAX_BYTES >> 20} MiB, as in turnout.yaml")
    return form


def _overlay(form: dict[str, Any], *, arm: list[str] | None, champion: str, strategy: str, salt: str) -> None:
    if arm:
        form["arms"] = {}
        for name, text in pairs("--arm", arm, ARM_FORM).items():
            variant, colon, weight = text.partition(":")
            form["arms"][name] = {"variant": variant}
            if colon:
                form["arms"][name]["weight"] = parse_weights(f"{name}={weight}", "--arm", ARM_FORM)[name]
    if strategy:
        form["strategy"] = {"kind": strategy}
    if champion:
        form["champion"] = champion
    if salt:
        form["salt"] = salt


def _around(
    form: dict[str, Any],
    *,
    tenant: str | None,
    when: str | None,
    priority: int | None,
    layer: str | None,
    hold_out: float | None,
    override: list[str] | None,
    shadow: list[str] | None,
) -> None:
    if tenant is not None:
        form["tenant"] = tenant or None
    if when is not None:
        form["when"] = when
    if priority is not None:
        form["priority"] = priority
    if layer is not None:
        form["layer"] = layer_slice("--layer", layer) if layer else None
    if hold_out is not None:
        form["hold_out_percent"] = hold_out
    if override is not None:
        form["overrides"] = pairs("--override", [one for one in override if one], "UNIT=ARM")
    if shadow is not None:
        form["shadows"] = parse_weights(",".join(shadow), "--shadow", "VARIANT=PERCENT")


def _message(form: dict[str, Any]) -> experiment_pb2.Experiment:
    from services.runtime.experiment import Experiment
    from services.runtime.experiment_messages import experiment_to_message
    from services.runtime.field_paths import checked

    return experiment_to_message(checked(Experiment, form))
