"""Rows as the ledger stores them, and the batch that a call brings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from monitoring.ledger.cells import Cell

Key = tuple[str, str]
"""(tenant, decision_id)."""


class DecisionRow(NamedTuple):
    """A row of the table `decisions`, in the order of its columns."""

    tenant: str
    decision_id: str
    family: str
    assigned_at_us: int
    arm: str
    served_variant: str
    fallback: int
    value: float
    confidence: float
    propensity: float
    revision: int
    snapshot_digest: int
    sequence: int
    latency_us: int
    request_digest: bytes
    record: bytes


class Features(NamedTuple):
    """The features of a decision, for the aggregates."""

    family: str
    variant: str
    schema_digest: int
    assigned_at_us: int
    packed: bytes
    """float32, little-endian, in the schema's order."""


class OutcomeRow(NamedTuple):
    """The reported part of a row of the table `outcomes`."""

    tenant: str
    decision_id: str
    recorded_at_us: int
    occurred_at_us: int
    value: float
    cost: float | None


class SnapshotRow(NamedTuple):
    """A row of the table `snapshots`, in the order of its columns."""

    family: str
    digest: int
    revision: int
    canonical_json: str
    applied_at_us: int
    router: str


class ShadowRow(NamedTuple):
    """The reported part of a row of the table `shadow_answers`, in the order of its columns."""

    tenant: str
    decision_id: str
    variant: str
    family: str
    assigned_at_us: int
    failure: int
    value: float
    told_value: float
    record: bytes


class Refused(NamedTuple):
    """A record that cannot be stored, and why."""

    raw: bytes
    reason: str


@dataclass(slots=True)
class Batch:
    """The records of one call, by kind, in their order."""

    decisions: list[DecisionRow] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    """Where each decision is counted."""
    features: list[Features] = field(default_factory=list)
    """What each decision was made from."""
    outcomes: list[OutcomeRow] = field(default_factory=list)
    snapshots: list[SnapshotRow] = field(default_factory=list)
    shadows: list[ShadowRow] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
