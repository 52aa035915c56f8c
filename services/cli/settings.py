"""Where the command finds its configuration file and its state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.runtime.errors import FailedPrecondition

if TYPE_CHECKING:
    from services.runtime.config import Config

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="TURNOUT_CONFIG", help="The configuration file.", show_default=True)
]
DEFAULT_CONFIG = Path("turnout.yaml")


def load_config(path: Path) -> Config:
    """Reads the configuration file.

    Raises:
        FailedPrecondition: there is none; says what to do.
        ConfigError: it is wrong; names the line.
    """
    from services.runtime.config import read_config

    if not path.exists():
        raise FailedPrecondition(
            "config", f"{path} does not exist: run `turnout train dispatch` to make it, or try `turnout demo` first"
        )
    return read_config(path)


def home_of(path: Path) -> Path:
    """Gives the folder of state: `home` of the file where there is one, else TURNOUT_HOME, else .turnout."""
    if path.exists():
        return load_config(path).home
    return Path(os.environ.get("TURNOUT_HOME", ".turnout")).resolve()
