"""Refined tracks that were written into annotations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "adoptions",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("annotation_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(36), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("before", sa.LargeBinary(), nullable=False),
        sa.Column("before_digest", sa.String(64), nullable=False),
        sa.Column("written", sa.LargeBinary(), nullable=False),
        sa.Column("written_digest", sa.String(64), nullable=False),
        sa.Column("frame_index", sa.JSON(), nullable=False),
        sa.Column("changes", sa.JSON(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("undone_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_adoptions_job_id", "adoptions", ["job_id"])
    op.create_index("adoptions_by_annotation", "adoptions", ["project_id", "annotation_id"])


def downgrade() -> None:
    op.drop_table("adoptions")
