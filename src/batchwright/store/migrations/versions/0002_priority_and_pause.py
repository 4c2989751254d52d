"""The priority of a batch, and since when it is paused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "batches",
        sa.Column(
            "priority",
            sa.String,
            sa.CheckConstraint("priority IN ('low', 'normal', 'high')", name="batches_priority"),
            nullable=False,
            server_default="normal",
        ),
    )
    op.add_column(
        "batches",
        sa.Column(
            "paused_at",
            sa.Double,
            sa.CheckConstraint(
                "paused_at IS NULL OR status IN ('validating', 'in_progress')",
                name="batches_pause",
            ),
        ),
    )
