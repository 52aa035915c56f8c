"""Owns BentoML's store under the home folder: one writer at a time, exact tags only, digests verified.

BentoML itself takes prefixes and ":latest", deletes every version of a bare name, checks no digest and is not safe
for concurrent writers. Whoever needs the store goes through here. Reading needs no BentoML: an exported bento is a
plain folder with its manifest.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bentos.manifest import MANIFEST, Manifest, read, verified_model
from services.runtime.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from services.runtime.home import Home

_NAME: Final = r"[a-z0-9](?:[-._a-z0-9]{0,61}[a-z0-9])?"
_TAG: Final = re.compile(rf"({_NAME}):({_NAME})")
_CHILD_SECONDS: Final = 180.0
_LOCK_SECONDS: Final = 300.0
_LOCK_PAUSE_SECONDS: Final = 0.05
_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A packaged variant."""

    tag: str
    """Exact tag of the bento, name:version; later versions of a variant sort after earlier ones."""
    family: str
    variant: str
    created: str
    """When it was trained, ISO 8601 in UTC; empty when the manifest does not say."""
    metrics: Mapping[str, Any]
    """Evaluation on the newest, held-out part of the data."""
    sha256: str
    """Of the ONNX file, hexadecimal."""


def exact_tag(tag: str) -> tuple[str, str]:
    """Splits an exact tag into name and version.

    Raises:
        InvalidArgument: the tag has no version, names ":latest", or is none that BentoML would take.
    """
    match = _TAG.fullmatch(tag)
    if match is None or match[2] == "latest":
        raise InvalidArgument("tag", f"{tag[:130]!r} is not an exact tag: give name:version, never :latest")
    return match[1], match[2]


def bento_name(family: str, variant: str) -> str:
    """Gives the bento's name, also fit for a Kubernetes name: turnout-<family>-<variant>, with dashes.

    Raises:
        InvalidArgument: the name would be over 63 characters, or hold what BentoML does not take.
    """
    name = f"turnout-{family}-{variant}".replace("_", "-").lower()
    if re.fullmatch(_NAME, name) is None:
        raise InvalidArgument("variant", f"{name[:130]!r} must be at most 63 characters of [a-z0-9.-]")
    return name


def list_versions(home: Home, family: str) -> list[Version]:
    """Lists a family's packaged variants, by variant and then oldest first.

    A folder whose manifest cannot be read is left out: it is not of use to anybody.
    """
    found = []
    for folder in sorted(home.bentos.glob("turnout-*/*/")):
        tag = f"{folder.parent.name}:{folder.name}"
        with contextlib.suppress(FailedPrecondition, InvalidArgument):
            exact_tag(tag)
            manifest = read(model_folder(folder))
            if manifest.family == family:
                found.append(_version(tag, manifest))
    return sorted(found, key=lambda version: (version.variant, version.tag))


def show(home: Home, tag: str) -> Manifest:
    """Gives the manifest of an exact tag, after verifying the model file's digest.

    Raises:
        InvalidArgument: the tag is not exact.
        NotFound: there is no such bento.
        FailedPrecondition: the manifest cannot be read, or the model file is not the one that was packaged.
    """
    folder = model_folder(_exported(home, tag))
    manifest = read(folder)
    verified_model(folder, manifest)
    return manifest


def delete(home: Home, tag: str) -> None:
    """Deletes one version: the exported folder, and the bento and model in BentoML's store.

    Raises:
        InvalidArgument: the tag is not exact.
        NotFound: there is no such bento, in neither place.
    """
    exact_tag(tag)
    folder = home.bento(tag)
    with writing(home):
        exported = folder.is_dir()
        if exported:
            # Gone in one step: nobody may start a server on half a folder.
            grave = home.bentos / f".deleted-{folder.parent.name}-{folder.name}"
            folder.rename(grave)
            shutil.rmtree(grave)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()
        if not ask_bentoml(home, {"action": "delete", "tag": tag}) and not exported:
            raise NotFound("tag", f"there is no bento {tag!r}")


def model_tags(home: Home) -> list[str]:
    """Lists the exact tags in BentoML's model store."""
    found: list[str] = ask_bentoml(home, {"action": "tags"})
    return found


def model_folder(bento: Path) -> Path:
    """Gives the folder of the one model inside an exported bento.

    Raises:
        FailedPrecondition: there is not exactly one.
    """
    found = list(bento.glob(f"models/*/*/{MANIFEST}"))
    if len(found) != 1:
        raise FailedPrecondition("bento", f"{bento} must hold one {MANIFEST}, not {len(found)}")
    return found[0].parent


@contextlib.contextmanager
def writing(home: Home) -> Iterator[None]:
    """Makes the caller the store's one writer, across processes, until the block ends.

    Raises:
        Aborted: another process kept the store for too long.
    """
    home.bentos.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + _LOCK_SECONDS
    with (home.bentos / ".lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    message = f"another process has been writing to {home.bentos} for {_LOCK_SECONDS:g} s; try again"
                    raise Aborted("store", message) from None
                time.sleep(_LOCK_PAUSE_SECONDS)
        yield


def ask_bentoml(home: Home, request: Mapping[str, Any]) -> Any:
    """Sends one request to a BentoML process of its own (`services.training.bento_build`) and gives its result.

    Raises:
        FailedPrecondition: BentoML refused, failed, or took too long; the sentence says which.
    """
    home.bentoml.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "BENTOML_HOME": str(home.bentoml.resolve()),
        "BENTOML_DO_NOT_TRACK": "true",
        # BentoML calls uv, which is installed beside this interpreter.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "services.training.bento_build"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd=_ROOT,
            env=environment,
            timeout=_CHILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        message = f"BentoML's {request['action']} took over {_CHILD_SECONDS:g} s and was stopped"
        raise FailedPrecondition("bentoml", message) from None
    try:
        answer = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError:
        answer = {"error": (done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}")[:500]}
    if "error" in answer:
        raise FailedPrecondition("bentoml", f"BentoML's {request['action']} failed: {answer['error']}")
    return answer["result"]


def _exported(home: Home, tag: str) -> Path:
    exact_tag(tag)
    folder = home.bento(tag)
    if not folder.is_dir():
        raise NotFound("tag", f"there is no bento {tag!r}; `turnout models list` shows those that are there")
    return folder


def _version(tag: str, manifest: Manifest) -> Version:
    return Version(
        tag=tag,
        family=manifest.family,
        variant=manifest.variant,
        created=str(manifest.provenance.get("created_at", "")),
        metrics=manifest.metrics,
        sha256=manifest.sha256,
    )
