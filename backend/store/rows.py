"""Access to job rows: for anyone, and for the run that holds the newest token."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from backend.store.kinds import KINDS
from backend.store.models import Delivery, Job, PartialFrames, Track
from trajseg.errors import CancelledError, InputError, TrajSegError

UNFINISHED = ("queued", "running")
"""States of unfinished jobs."""


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
