"""The engine that a project has chosen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("projects", sa.Column("engine", sa.String(400), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("projects", "engine")
