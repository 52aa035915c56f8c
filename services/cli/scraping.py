"""Where Prometheus finds the processes of `turnout up`: a file of targets in the home, for file-based discovery."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

TARGETS: Final = "prometheus.json"
"""The file's name in the home."""
_JOBS: Final = {"hub": "turnout-hub", "router": "turnout-router"}


def write_targets(home: Path, addresses: Mapping[str, Mapping[str, str]]) -> None:
    """Replaces the file in one step; a reader sees the old or the new one.

    Args:
        home: folder of the platform's state.
        addresses: what each process listens on, by process and kind; one without metrics is left out.

    Raises:
        OSError: the file cannot be written.
    """
    targets = [
        {"targets": [where["metrics"]], "labels": {"job": _JOBS.get(name, "turnout-model-server"), "process": name}}
        for name, where in addresses.items()
        if "metrics" in where
    ]
    path = home / TARGETS
    scratch = path.with_name(f".{TARGETS}.new")
    scratch.write_text(json.dumps(targets, indent=2) + "\n", encoding="utf-8")
    scratch.replace(path)
