"""What shadows answered to copies of decisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "shadow_answers",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("tenant", "decision_id", "variant", "family")),
        sa.Column("assigned_at_us", sa.BigInteger, nullable=False),
        sa.Column("failure", sa.Integer, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("told_value", sa.Double, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("cell", sa.Integer, nullable=False),
        sa.Column("told_cell", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("decision_id", "tenant", "variant"),
    )
    op.create_index("shadow_answers_by_time", "shadow_answers", ["assigned_at_us"])
