"""Generates the committed stubs in protos/gen; with --check, proves that they are fresh.

The proto package is the Python package, so nothing needs patching: `from turnout.v1 import prediction_pb2`.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
GENERATED = ROOT / "gen"
PACKAGES = ("dispatch", "inference", "turnout")


def generate(target: Path) -> None:
    """Writes the stubs of every proto into `target`, which must not hold any."""
    target.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.proto"))
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT}", f"--python_out={target}"]
    command += [f"--mypy_out=quiet:{target}", f"--plugin=protoc-gen-mypy={plugin}", *sources]
    subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603 - our own arguments
    for package in {path.parent for path in target.rglob("*_pb2.py")}:
        for folder in (package, *package.parents):
            if folder == target:
                break
            (folder / "__init__.py").touch()
            (folder / "py.typed").touch()


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
