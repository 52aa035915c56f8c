"""What the commands about monitoring have in common: the connection to the hub, and families that it watches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli.settings import load_config
from services.runtime.errors import NotFound

if TYPE_CHECKING:
    from services.cli.monitoring import Monitoring


def open_monitoring(address: str | None, config: Path) -> Monitoring:
    """Opens the hub that was named, or the file's."""
    from services.cli.monitoring import Monitoring

    return Monitoring(address or load_config(config).hub.grpc, os.environ.get("TURNOUT_OPERATOR_TOKEN"))


def check_watched(server: Monitoring, family: str) -> None:
    """Refuses a family that the hub does not watch: a misspelt name must not look healthy.

    Raises:
        NotFound: names the families that are watched.
        Unavailable: the hub cannot be reached.
    """
    from turnout.v1 import monitoring_pb2 as pb

    found = server.ask(pb.HealthRequest(), pb.HealthResponse)
    watched = sorted({one.family for one in found.dimensions if one.family})
    # Before the first whole check nobody knows what is watched.
    if watched and family not in watched:
        raise NotFound("family", f"the hub watches no family {family[:64]!r}, only {', '.join(watched)}")
