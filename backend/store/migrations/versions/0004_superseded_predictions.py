"""Superseded predictions, and jobs that wait for something outside."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.store.models import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "superseded_predictions",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("prediction_id", sa.Integer(), nullable=False),
        sa.Column("delete_at", UtcDateTime(), nullable=False),
        sa.UniqueConstraint("project_id", "prediction_id", name="one_superseded"),
    )
    op.create_index("ix_superseded_predictions_delete_at", "superseded_predictions", ["delete_at"])
    op.add_column("jobs", sa.Column("waiting_for", sa.Text(), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("waiting_since", UtcDateTime(), nullable=True))
    op.add_column("jobs", sa.Column("not_before", UtcDateTime(), nullable=True))


def downgrade() -> None:
    op.drop_table("superseded_predictions")
    for column in ("waiting_for", "waiting_since", "not_before"):
        op.drop_column("jobs", column)
