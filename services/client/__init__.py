"""Python SDK for callers: predictions that come back in time, outcomes that arrive."""

from services.client.answers import (
    Answer,
    Assignment,
    AssignmentReason,
    Contribution,
    Durability,
    Explanation,
    FallbackReason,
)
from services.client.backoff import Backoff
from services.client.client import TurnoutClient
from services.client.features import AskedRow, Features
from services.client.link import LinkSettings
from services.client.outcomes import Outcome, OutcomeResult, OutcomeSettings
from services.client.reporter import OutcomeStatistics
from services.client.settings import ClientSettings, Statistics
from services.client.status import RouterFailed

__all__ = [
    "Answer",
    "AskedRow",
    "Assignment",
    "AssignmentReason",
    "Backoff",
    "ClientSettings",
    "Contribution",
    "Durability",
    "Explanation",
    "FallbackReason",
    "Features",
    "LinkSettings",
    "Outcome",
    "OutcomeResult",
    "OutcomeSettings",
    "OutcomeStatistics",
    "RouterFailed",
    "Statistics",
    "TurnoutClient",
]
