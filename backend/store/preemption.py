"""Preemption: which running jobs make way for jobs that wait in a queue that goes first."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, or_, select

from backend.store.clock import database_now
from backend.store.database import Database
from backend.store.kinds import QUEUES
from backend.store.models import Job

IDLE_SECONDS = 0.5
"""A job that waits for a shorter time may be about to be taken by a worker that has nothing to do."""


class Preemption:
    """Tells a running job whether it is its turn to make way. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def due(self, job: Job, stale_after_seconds: float) -> bool:
        """Whether the run of this job should make way now.

        Jobs count as waiting that are queued in a queue before the job's own and may start. One run makes way for
        each: of several workers those whose jobs of the same kind and queue began first.

        Args:
            stale_after_seconds: runs without a heartbeat for so long are not there to make way.
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
