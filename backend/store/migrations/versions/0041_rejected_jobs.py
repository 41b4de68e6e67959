"""The state of jobs that were rejected; earlier versions kept it in the params and in the first words of the error."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None

PREFIX = "Not understood: "
"""How the error of a job began whose instruction the engine did not understand."""
jobs = sa.table(
    "jobs",
    sa.column("id", sa.String),
    sa.column("state", sa.String),
    sa.column("error", sa.Text),
    sa.column("rejection", sa.String),
    sa.column("params", sa.JSON),
)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("rejection", sa.String(20), nullable=False, server_default=""))
    connection = op.get_bind()
    failed = sa.select(jobs.c.id, jobs.c.error, jobs.c.params).where(jobs.c.state == "failed")
    for job_id, error, params in connection.execute(failed).all():
        if (params or {}).get("rejected"):
            rejection = "task"
            params = {name: value for name, value in params.items() if name != "rejected"}
        elif error.startswith(PREFIX):
            rejection = "instruction"
        else:
            continue
        changed = {"state": "rejected", "rejection": rejection, "error": error.removeprefix(PREFIX), "params": params}
        connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(changed))


def downgrade() -> None:
    connection = op.get_bind()
    rejected = sa.select(jobs.c.id, jobs.c.error, jobs.c.params, jobs.c.rejection).where(jobs.c.state == "rejected")
    for job_id, error, params, rejection in connection.execute(rejected).all():
        if rejection == "task":
            params = {**(params or {}), "rejected": True}
        else:
            error = f"{PREFIX}{error}"
        changed = {"state": "failed", "error": error, "params": params}
        connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(changed))
    op.drop_column("jobs", "rejection")
