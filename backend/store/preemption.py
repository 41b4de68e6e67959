"""Preemption: which running jobs yield to jobs waiting in a queue with higher priority."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, or_, select

from backend.store.clock import database_now
from backend.store.database import Database
from backend.store.kinds import QUEUES
from backend.store.models import Job

IDLE_SECONDS = 0.5
"""A job that has waited for less than this may be about to be taken by an idle worker."""


class Preemption:
    """Decides whether a running job should yield. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def due(self, job: Job, stale_after_seconds: float) -> bool:
        """Whether the run of this job should yield now.

        Waiting jobs are those in a queue with higher priority than the job's own that may start. One run yields for
        each of them; of several workers, those whose job of the same kind and queue started first.

        Args:
            stale_after_seconds: runs without a heartbeat for this long are not counted.
        """
        first = QUEUES[: QUEUES.index(job.queue)] if job.queue in QUEUES else ()
        if not first:
            return False
        with self.database.read() as session:
            moment = database_now(session)
            waits = (
                (Job.state == "queued")
                & Job.queue.in_(first)
                & (Job.created_at <= moment - timedelta(seconds=IDLE_SECONDS))
                & or_(Job.not_before.is_(None), Job.not_before <= moment)
            )
            waiting = session.scalar(select(func.count()).select_from(Job).where(waits)) or 0
            if not waiting:
                return False
            alive = moment - timedelta(seconds=stale_after_seconds)
            running = (
                select(Job.id)
                .where(Job.state == "running", Job.queue == job.queue, Job.kind == job.kind, Job.heartbeat_at >= alive)
                .order_by(Job.started_at, Job.id)
                .limit(waiting)
            )
            return job.id in set(session.scalars(running))
