"""Backlog: the jobs that should be in the queue according to the store, whatever happened to the queue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import or_, select

from backend.store.clock import database_now
from backend.store.database import Database
from backend.store.models import Job
from backend.store.rows import chunks


class Backlog:
    """Reads queued and lost jobs; the periodic query returns only ids."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def queued(self, created_before: datetime) -> list[tuple[str, str]]:
        """(id, queue) of queued jobs that may start now and were created before `created_before`."""
        with self.database.read() as session:
            due = or_(Job.not_before.is_(None), Job.not_before <= database_now(session))
            query = select(Job.id, Job.queue).where(Job.state == "queued", Job.created_at < created_before, due)
            return [(row[0], row[1]) for row in session.execute(query)]

    def still_queued(self, job_ids: Sequence[str]) -> list[Job]:
        """Those of these jobs that are queued now, oldest first."""
        queued = select(Job).where(Job.state == "queued")
        with self.database.read() as session:
            found = [job for some in chunks(job_ids) for job in session.scalars(queued.where(Job.id.in_(some)))]
        return sorted(found, key=lambda job: (job.created_at, job.id))

    def lost(self, stale_after_seconds: float) -> list[Job]:
        """Running jobs without a heartbeat for this long, oldest first."""
        with self.database.read() as session:
            stale = database_now(session) - timedelta(seconds=stale_after_seconds)
            query = select(Job).where(Job.state == "running", Job.heartbeat_at < stale).order_by(Job.created_at)
            return list(session.scalars(query))
