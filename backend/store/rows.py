"""Access to job rows: for anyone, and for the run that holds the newest token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from backend.store.kinds import KINDS
from backend.store.models import Delivery, Job, PartialFrames, Track
from trajseg.errors import CancelledError, InputError, TrajSegError

UNFINISHED = ("queued", "running")
"""States of unfinished jobs."""
ROWS_AT_ONCE = 500
"""Rows per INSERT; SQLite allows 32,766 values in a statement."""
Item = TypeVar("Item")


class UnknownJobError(InputError):
    """A job that is not in the store."""


class StaleRunError(TrajSegError):
    """Another worker has restarted this job; writes by the older run are rejected."""


def get_job(session: Session, job_id: str, lock: bool = False) -> Job:
    """Raises UnknownJobError."""
    # PostgreSQL rejects text with NUL, and no id contains it.
    job = session.get(Job, job_id, with_for_update=lock) if "\0" not in job_id else None
    if job is None:
        raise UnknownJobError(f"There is no job {job_id}.", "GET /jobs lists them.")
    return job


def running_job(session: Session, job_id: str, run_token: str) -> Job:
    """The job, locked, for its newest run. Raises CancelledError, or StaleRunError for an older run."""
    job = get_job(session, job_id, lock=True)
    if job.state == "cancelled":
        raise CancelledError(f"Job {job_id} was cancelled.")
    if job.state != "running" or job.run_token != run_token:
        raise StaleRunError(f"Job {job_id} was restarted or finished by another worker.")
    return job


def restart(session: Session, jobs: Sequence[Job]) -> list[Job]:
    """Queues finished jobs as new, without anything they produced; the caller puts them into the queue.

    Returns the queued jobs: all of them, except those of a one-per-project kind whose project has another one already.
    """
    alone = [name for name, kind in KINDS.items() if kind.one_per_project]
    busy = select(Job.project_id, Job.kind).where(Job.kind.in_(alone), Job.state.in_(UNFINISHED))
    taken = {(project_id, kind) for project_id, kind in session.execute(busy)}
    queued = []
    for job in jobs:
        if job.kind in alone:
            if (job.project_id, job.kind) in taken:
                continue
            taken.add((job.project_id, job.kind))
        queued.append(job)
    for table in (Track, Delivery, PartialFrames):
        session.execute(delete(table).where(table.job_id.in_([job.id for job in queued])))
    for job in queued:
        job.reset()
    return queued


def insert_jobs(session: Session, rows: Sequence[Mapping[str, Any]]) -> dict[str, Job]:
    """Inserts the rows of requests (JobRequest.row) that nobody has made before; returns the new jobs by request."""
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    table: Any = Job.__table__
    new = insert(table).on_conflict_do_nothing(index_elements=["request_key"]).returning(table.c.request_key)
    # Always in the same order: batches that lock the same rows in different orders would deadlock.
    ordered = sorted(rows, key=lambda row: str(row["request_key"]))
    keys = {key for chunk in chunks(ordered) for key in session.execute(new, chunk).scalars()}
    # Built from their rows, which saves a query to read them back.
    return {row["request_key"]: Job(**row) for row in rows if row["request_key"] in keys}


def chunks(items: Sequence[Item]) -> Iterable[Sequence[Item]]:
    """The items, ROWS_AT_ONCE at a time."""
    return (items[start : start + ROWS_AT_ONCE] for start in range(0, len(items), ROWS_AT_ONCE))
