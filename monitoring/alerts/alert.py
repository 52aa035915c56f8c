"""An alert: one episode of one condition, as an immutable value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monitoring.alerts.kinds import AlertType, EventKind, Severity, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One episode. Instants are microseconds since 1970-01-01T00:00Z; 0 means "not yet"."""

    id: str
    fingerprint: str
    type: AlertType
    labels: Mapping[str, str]
    group: str
    state: State
    severity: Severity
    worst: Severity
    """The worst severity of the episode."""
    summary: str
    value: float | None
    limit: float | None
    started_at_us: int
    fired_at_us: int = 0
    last_seen_us: int
    looked_at_us: int
    """When somebody last looked and could tell."""
    clear_since_us: int = 0
    """Since when the condition has ceased; 0 while it holds."""
    resolved_at_us: int = 0
    resolved_by: str = ""
    resolved_why: str = ""
    held_until_us: int = 0
    """Resolved by hand: the condition raises nothing before this instant, unless it was seen to cease."""
    seen: int = 1
    flapping: bool = False
    penalty: float = 0.0
    """Firings remembered at `penalty_at_us`; halves with each half-life."""
    penalty_at_us: int = 0
    notice: int = 0
    """Grows with everything that handlers are to hear of."""

    @property
    def active(self) -> bool:
        """Whether it is not over."""
        return self.state is not State.RESOLVED

    def matched_labels(self) -> dict[str, str]:
        """Gives what matchers see: the labels, and type and severity."""
        return {**self.labels, "type": self.type.value, "severity": self.severity.word}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an alert."""

    sequence: int
    at_us: int
    kind: EventKind
    alert: Alert
    """The alert after it."""
