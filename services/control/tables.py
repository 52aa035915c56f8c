"""The tables of experiment control, in portable SQL. Migration 0003 makes exactly these."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, MetaData, PrimaryKeyConstraint, Table, Text

METADATA: Final = MetaData()

EXPERIMENT_SET: Final = Table(
    "experiment_set",
    METADATA,
    Column("singleton", Integer, nullable=False, primary_key=True, autoincrement=False),
    # Made once, at random: versions of two databases do not count on from each other.
    Column("origin", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("changed_at_us", BigInteger, nullable=False),
)
"""One row: the version of the whole set."""


def _things(name: str) -> Table:
    return Table(
        name,
        METADATA,
        Column("name", Text, nullable=False, primary_key=True),
        Column("revision", BigInteger, nullable=False),
        # Canonical JSON; NULL once it is deleted. The row stays, so that revisions of a name never start over.
        Column("definition", Text),
    )


def _revisions(name: str) -> Table:
    return Table(
        name,
        METADATA,
        Column("name", Text, nullable=False),
        Column("revision", BigInteger, nullable=False),
        # Version of the set that the change made.
        Column("version", BigInteger, nullable=False),
        Column("definition", Text),
        Column("who", Text, nullable=False),
        Column("at_us", BigInteger, nullable=False),
        Column("why", Text, nullable=False),
        # JSON list of sentences.
        Column("changes", Text, nullable=False),
        PrimaryKeyConstraint("name", "revision"),
    )


EXPERIMENTS: Final = _things("experiments")
"""The newest revision of every experiment."""
EXPERIMENT_REVISIONS: Final = _revisions("experiment_revisions")
"""Every revision of every experiment; nothing is ever taken out."""
LAYERS: Final = _things("layers")
"""The newest revision of every layer."""
LAYER_REVISIONS: Final = _revisions("layer_revisions")
"""Every revision of every layer."""

DECLARED: Final = Table(
    "declared",
    METADATA,
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("definition", Text, nullable=False),
    PrimaryKeyConstraint("kind", "name"),
)
"""What turnout.yaml said when it was last taken over; `kind` is experiment or layer."""

ROUTER_STATUS: Final = Table(
    "router_status",
    METADATA,
    Column("router", Text, nullable=False, primary_key=True),
    Column("applied_version", BigInteger, nullable=False),
    Column("lag_us", BigInteger),
    Column("refusal", Text, nullable=False),
    Column("heard_at_us", BigInteger, nullable=False),
)
"""What was last known of each router."""
