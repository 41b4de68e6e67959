"""The engine that runs beside a project's own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("projects", sa.Column("second_engine", sa.String(400), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("projects", "second_engine")
