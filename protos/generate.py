"""Generates the committed stubs in protos/gen; with --check, proves that they are fresh.

The proto package is the Python package, so nothing needs patching: `from turnout.v1 import prediction_pb2`. Stubs hold
no comments, so each proto's are written beside its stub by full name (`prediction_comments.json`), for OpenAPI.
"""

from __future__ import annotations

import filecmp
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent
GENERATED = ROOT / "gen"
PACKAGES = ("dispatch", "inference", "turnout")


def generate(target: Path) -> None:
    """Writes the stubs of every proto into `target`, which must not hold any."""
    target.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.proto"))
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT}", f"--python_out={target}"]
    command += [f"--mypy_out=quiet:{target}", f"--plugin=protoc-gen-mypy={plugin}"]
    described = target / ".descriptors"
    command += ["--include_source_info", f"--descriptor_set_out={described}", *sources]
    subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603 - our own arguments
    for file in FileDescriptorSet.FromString(described.read_bytes()).file:
        comments = json.dumps(comments_of(file), indent=1, sort_keys=True, ensure_ascii=False)
        (target / file.name).with_name(f"{Path(file.name).stem}_comments.json").write_text(comments + "\n", "utf-8")
    described.unlink()
    for package in {path.parent for path in target.rglob("*_pb2.py")}:
        for folder in (package, *package.parents):
            if folder == target:
                break
            (folder / "__init__.py").touch()
            (folder / "py.typed").touch()


def comments_of(file: FileDescriptorProto) -> dict[str, str]:
    """Gives the comments of a proto by the full names of what they stand above, lines joined, paragraphs kept."""
    found = {}
    for location in file.source_code_info.location:
        if not location.leading_comments:
            continue
        # A path alternates between the number of a field of the descriptor and a place in it (descriptor.proto).
        names: list[str] = [file.package]
        node: Any = file
        for number, place in zip(location.path[::2], location.path[1::2], strict=False):
            node = getattr(node, node.DESCRIPTOR.fields_by_number[number].name)[place]
            names.append(node.name)
        lines = [line.strip() for line in location.leading_comments.strip().split("\n")]
        paragraphs = "\n".join(lines).split("\n\n")
        found[".".join(names)] = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
    return found


def differences(left: Path, right: Path) -> list[str]:
    """Names the files below two folders that differ or stand on one side only."""
    names = {
        str(path.relative_to(side))
        for side in (left, right)
        for path in side.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sorted(name for name in names if not _same(left / name, right / name))


def _same(left: Path, right: Path) -> bool:
    return left.is_file() and right.is_file() and filecmp.cmp(left, right, shallow=False)


def main() -> int:
    """Generates, or checks with --check. Returns the exit code."""
    if "--check" in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            generate(Path(scratch))
            stale = differences(GENERATED, Path(scratch))
        for name in stale:
            print(f"protos/gen/{name} is stale: run `make protos` and commit the result", file=sys.stderr)  # noqa: T201
        return 1 if stale else 0
    shutil.rmtree(GENERATED, ignore_errors=True)
    generate(GENERATED)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
