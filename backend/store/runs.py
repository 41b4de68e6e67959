"""Runs: the row of a job for whoever holds its run token, and the database's clock, by which leases are measured."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import FunctionElement

from backend.store.models import Job, UtcDateTime
from trajseg.errors import CancelledError, InputError, TrajSegError


class UnknownJobError(InputError):
    """A job that the store does not hold."""


class StaleRunError(TrajSegError):
    """Another worker has restarted this job; what the older run wants to write is refused."""


class DatabaseNow(FunctionElement[datetime]):
    """The present time by the database's clock, in UTC."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(DatabaseNow, "sqlite")
def _sqlite_now(element: Any, compiler: Any, **kw: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(DatabaseNow, "postgresql")
def _postgresql_now(element: Any, compiler: Any, **kw: Any) -> str:
    # now() would be the beginning of the transaction.
    return "clock_timestamp()"


def database_now(session: Session) -> datetime:
    """The database's present time: one clock for all workers and backends, whatever their own clocks say."""
    return session.execute(select(DatabaseNow())).scalar_one()


def get_job(session: Session, job_id: str, lock: bool = False) -> Job:
    """Raises UnknownJobError."""
    job = session.get(Job, job_id, with_for_update=lock)
    if job is None:
        raise UnknownJobError(f"There is no job {job_id}.", "GET /jobs lists them.")
    return job


def running_job(session: Session, job_id: str, run_token: str) -> Job:
    """The job, locked, for its newest run. Raises CancelledError, or StaleRunError for another run."""
    job = get_job(session, job_id, lock=True)
    if job.state == "cancelled":
        raise CancelledError(f"Job {job_id} was cancelled.")
    if job.state != "running" or job.run_token != run_token:
        raise StaleRunError(f"Job {job_id} was restarted or finished by another worker.")
    return job
