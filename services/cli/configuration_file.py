"""Writes turnout.yaml: a first one after a training, or new tags into one that is there, comments kept."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bentos.family import load
from services.runtime.config import Config, ConfigError, parse_config
from services.runtime.errors import AlreadyExists, FailedPrecondition
from services.runtime.followed_file import fingerprint, folder_locked, replace_file

RULES_WEIGHT: Final = 10.0
_HEAD: Final = """\
# Turnout, everything in one file. It is followed while Turnout runs: save it and the change is applied, or refused
# with the line at fault. What `turnout split` changes is not written in here: it stays until you edit that experiment.
"""


def first_file(
    family: str,
    tags: Mapping[str, str],
    *,
    champion: str,
    home: str,
    grpc: Mapping[str, str],
    metrics: Mapping[str, str],
    http: str = "",
) -> str:
    """Gives the text of a new file: all variants, and an experiment that splits the traffic among them and the rules.

    Args:
        family: prediction problem.
        tags: exact tag of the bento, by variant.
        champion: variant that gets everything while the experiment is paused.
        home: folder of state; a relative one counts from the file's folder.
        grpc: gRPC address, by "router" and "hub"; empty for the usual ones.
        metrics: address of /metrics, likewise.
        http: the hub's address for JSON; empty for the usual one.
    """
    lines = [_HEAD.rstrip(), f"home: {_quoted(home)}"]
    for process in ("router", "hub"):
        if process in grpc:
            lines += [f"{process}:", f"  grpc: {_quoted(grpc[process])}", f"  metrics: {_quoted(metrics[process])}"]
            lines += [f"  http: {_quoted(http)}"] if process == "hub" and http else []
    lines += ["families:", f"  {family}:", "    deadline_ms: 500"]
    if load(family).critical:
        lines += ["    # Answered whatever the load; calls of other families are refused then.", "    critical: true"]
    lines += ["    variants:"]
    for variant, tag in tags.items():
        lines += [f"      {variant}:", f"        bento: {_quoted(tag)}"]
    share = round((100.0 - RULES_WEIGHT) / len(tags), 2)
    lines += [
        "experiments:",
        f"  {family}:",
        "    revision: 1",
        "    # Key of the hash that assigns units; a new salt deals all units anew.",
        f"    salt: {family}-1",
        "    # Gets all traffic while the experiment is paused.",
        f"    champion: {champion}",
        "    strategy:",
        "      kind: weighted",
        "    arms:",
        "      rules:",
        "        variant: rules",
        f"        weight: {RULES_WEIGHT:g}",
    ]
    for variant in tags:
        lines += [f"      {variant}:", f"        variant: {variant}", f"        weight: {share:g}"]
    return "\n".join(lines) + "\n"


def write_first(path: Path, text: str) -> None:
    """Writes a new file.

    Raises:
        AlreadyExists: there is one.
        ConfigError: the text is no valid configuration.
    """
    parse_config(text, path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        if path.exists():
            raise AlreadyExists("config", f"{path} exists already; `--use` puts the new tags into it")
        replace_file(path, text)


def use_tags(path: Path, family: str, tags: Mapping[str, str]) -> Config:
    """Puts exact tags into the file, in one step; its comments and its order stay. Gives what it says now.

    Raises:
        ConfigError: the file is wrong.
        FailedPrecondition: the file cannot be written, or is being changed by another program.
    """
    path = path.resolve()
    with _locked(path.parent):
        before = fingerprint(path)
        text = path.read_text(encoding="utf-8")
        parse_config(text, path.name)
        new = _with_tags(text, path.name, family, tags)
        config = parse_config(new, path.name)

        def unless_edited() -> None:
            if fingerprint(path) != before:
                message = f"{path.name} was edited at the same moment: look at it and try again"
                raise FailedPrecondition("config", message)

        replace_file(path, new, unless=unless_edited)
    return config


def _with_tags(text: str, name: str, family: str, tags: Mapping[str, str]) -> str:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096
    try:
        tree: Any = yaml.load(text)
    except YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML") from error
    families = tree["families"]
    if families.get(family) is None:
        families[family] = {}
    if families[family].get("variants") is None:
        families[family]["variants"] = {}
    variants = families[family]["variants"]
    for variant, tag in tags.items():
        if variants.get(variant) is None:
            variants[variant] = {}
        variants[variant]["bento"] = tag
    out = io.StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps the hub, which changes the file the same way, out meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder_locked(folder, keep_waiting=lambda: False))
        except BlockingIOError as error:
            raise FailedPrecondition("config", "another program is changing the file; try again") from error
        yield


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
