"""Failed and postponed jobs and undelivered results get the key of their reason, so that they are grouped by SQL."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.store.reasons import reason_key

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

AT_ONCE = 1000
WITH_REASON = sa.text("reason != ''")
REASON = sa.column("reason", sa.String)
jobs = sa.table("jobs", sa.column("id"), sa.column("state"), sa.column("error"), sa.column("waiting_for"), REASON)
deliveries = sa.table("deliveries", sa.column("id"), sa.column("last_error"), sa.column("reason", sa.String))


def upgrade() -> None:
    for table, name, columns in (
        ("jobs", "jobs_by_reason", ["state", "reason", "finished_at", "waiting_since", "project_id"]),
        ("deliveries", "deliveries_by_reason", ["state", "reason", "next_attempt_at"]),
    ):
        op.add_column(table, sa.Column("reason", sa.String(16), nullable=False, server_default=""))
        op.create_index(name, table, columns, sqlite_where=WITH_REASON, postgresql_where=WITH_REASON)
    _fill(jobs, sa.case((jobs.c.state == "queued", jobs.c.waiting_for), else_=jobs.c.error))
    _fill(deliveries, deliveries.c.last_error)


def downgrade() -> None:
    for table, name in (("jobs", "jobs_by_reason"), ("deliveries", "deliveries_by_reason")):
        op.drop_index(name, table)
        op.drop_column(table, "reason")


def _fill(table: sa.TableClause, said: sa.ColumnElement[str]) -> None:
    connection = op.get_bind()
    rows = connection.execute(sa.select(table.c.id, said).where(said != "")).all()
    changed = [{"row": row_id, "key": reason_key(text)} for row_id, text in rows]
    update = sa.update(table).where(table.c.id == sa.bindparam("row")).values(reason=sa.bindparam("key"))
    for start in range(0, len(changed), AT_ONCE):
        connection.execute(update, changed[start : start + AT_ONCE])
