"""What is known of a task in Label Studio: when it was opened, and the state that its columns show."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.store.models import UtcDateTime

revision = "0040"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=True),
        sa.Column("settled", sa.Text(), nullable=False, server_default=""),
        sa.Column("settled_at", UtcDateTime(), nullable=True),
        sa.Column("shown", sa.Text(), nullable=False, server_default=""),
        sa.Column("shown_at", UtcDateTime(), nullable=True),
        sa.UniqueConstraint("project_id", "task_id", name="one_task"),
    )


def downgrade() -> None:
    op.drop_table("tasks")
