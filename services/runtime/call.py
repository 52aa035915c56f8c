"""The transport seam: what a handler knows about the call it answers. Nothing above it knows gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Call(Protocol):
    """One call. Handlers are `async def name(request, call) -> reply`, or async generators for streams."""

    @property
    def tenant(self) -> str:
        """Who calls, from the credential."""

    @property
    def peer(self) -> str:
        """Where the call comes from, for logs."""

    def metadata(self) -> Mapping[str, str]:
        """The caller's own metadata, texts only and without the credential; of entries with one name the last."""

    def time_left(self) -> float | None:
        """Seconds until the caller's deadline; None when the caller set none."""
