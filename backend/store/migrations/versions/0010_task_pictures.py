"""Tasks whose data holds links to key frames: all with a prediction that was delivered are looked at."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "task_pictures",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("missing_since", sa.DateTime(timezone=True)),
        sa.UniqueConstraint("project_id", "task_id", name="one_task_pictures"),
    )
    op.create_index("ix_task_pictures_due_at", "task_pictures", ["due_at"])
    op.execute(
        "INSERT INTO task_pictures (project_id, task_id, due_at) "
        "SELECT DISTINCT jobs.project_id, jobs.task_id, CURRENT_TIMESTAMP FROM jobs "
        "JOIN deliveries ON deliveries.job_id = jobs.id "
        "WHERE deliveries.state = 'sent' AND jobs.project_id IS NOT NULL AND jobs.task_id IS NOT NULL"
    )


def downgrade() -> None:
    op.drop_table("task_pictures")
