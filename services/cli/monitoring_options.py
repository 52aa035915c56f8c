"""What the commands about monitoring have in common: the connection to the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli.settings import load_config

if TYPE_CHECKING:
    from services.cli.monitoring import Monitoring


def open_monitoring(address: str | None, config: Path) -> Monitoring:
    """Opens the hub that was named, or the file's."""
    from services.cli.monitoring import Monitoring

    return Monitoring(address or load_config(config).hub.grpc, os.environ.get("TURNOUT_OPERATOR_TOKEN"))
