"""The table of what the monitors have not seen yet. What they remember stands in `monitoring_state`."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, Table

METADATA: Final = MetaData()

MONITORING_INBOX: Final = Table(
    "monitoring_inbox",
    METADATA,
    Column("sequence", BigInteger, nullable=False, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""One row a batch that the ledger stored, written in the same transaction and removed when the monitors took it."""
