"""Annotations, what persons changed in them, and hints that some have to be read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.store.models import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("projects", sa.Column("swept_to", sa.String(40), nullable=False, server_default=""))
    op.create_table(
        "annotation_hints",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("noted_at", UtcDateTime(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.UniqueConstraint("project_id", "task_id", name="one_hint"),
    )
    op.create_index("ix_annotation_hints_due_at", "annotation_hints", ["due_at"])
    op.create_table(
        "annotations",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("annotation_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(36), nullable=True),
        sa.Column("refine_job_id", sa.String(36), nullable=True),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("when", UtcDateTime(), nullable=False),
        sa.Column("lead_seconds", sa.Float(), nullable=True),
        sa.Column("read_at", UtcDateTime(), nullable=False),
        sa.Column("withdrawn_at", UtcDateTime(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.UniqueConstraint("project_id", "annotation_id", name="one_annotation"),
    )
    op.create_index("ix_annotations_task_id", "annotations", ["task_id"])
    op.create_table(
        "corrections",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("annotation_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("job_id", sa.String(36), nullable=True),
        sa.Column("track_uid", sa.String(100), nullable=False),
        sa.Column("label", sa.String(400), nullable=False),
        sa.Column("frame_index", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("rle", sa.JSON(), nullable=True),
        sa.Column("box", sa.JSON(), nullable=True),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("when", UtcDateTime(), nullable=False),
        sa.Column("model_version", sa.String(200), nullable=False),
        sa.Column("withdrawn_at", UtcDateTime(), nullable=True),
    )
    op.create_index("corrections_by_annotation", "corrections", ["project_id", "annotation_id"])
    op.create_index("corrections_by_task", "corrections", ["project_id", "task_id"])
    op.create_index("ix_corrections_job_id", "corrections", ["job_id"])


def downgrade() -> None:
    for table in ("corrections", "annotations", "annotation_hints"):
        op.drop_table(table)
    op.drop_column("projects", "swept_to")
