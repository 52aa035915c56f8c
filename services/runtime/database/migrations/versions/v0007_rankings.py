"""The candidates of each ranking."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "rankings",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("tenant", "family", "unit_id")),
        sa.Column("newest_at_us", sa.BigInteger, nullable=False),
        sa.Column("candidates", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("unit_id", "family", "tenant"),
    )
    op.create_index("rankings_by_time", "rankings", ["newest_at_us"])
