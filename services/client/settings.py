"""What a client may be told, and what it tells about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from services.client.link import LinkSettings
from services.client.outcomes import OutcomeSettings
from services.client.reporter import OutcomeStatistics


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a client did so far."""

    answered_by_router: int
    answered_locally: int
    under_way: int
    """Calls on the stream now, queued ones included."""
    connections: int
    """Connections made, renewals included."""
    resent: int
    """Calls that were sent again after a broken stream."""
    refused_by_router: int
    """Calls that the router refused for load."""
    refused_here: int
    """Calls that this client refused in its stead, while the router refused most of them."""
    local_outcomes: int
    """Outcomes that were not sent because their decisions are known to this client only."""
    outcomes: OutcomeStatistics
    """What became of `report_outcome`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Everything about a client that has a sensible default; times in seconds."""

    transport: Literal["stream", "unary"] = "stream"
    """One stream for all calls, or an RPC a call for intermediaries that do not carry streams."""
    fallback: bool = True
    """Whether the family's rules answer here when the router does not."""
    families: tuple[str, ...] = ()
    """Families whose rules are imported on entry, so that the first answer in need costs no import."""
    close_timeout: float = 2.0
    """How long leaving the block waits for outcomes that are still pending."""
    link: LinkSettings = field(default_factory=LinkSettings)
    outcomes: OutcomeSettings = field(default_factory=OutcomeSettings)
