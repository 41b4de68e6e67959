"""Retention: which finished jobs are deleted, and which are always kept.

Deleted: failed, rejected and cancelled jobs, and all jobs of tasks that no longer exist in Label Studio. Kept: jobs
that wait or run, done jobs of existing tasks, since their predictions are in use, and every job that a person's
work or a model version refers to: corrections, annotations, adopted tracks, versions, other jobs' params, deliveries.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select, tuple_
from sqlalchemy.orm import Session

from backend.store.database import Database
from backend.store.models import (
    Adoption,
    Annotation,
    Correction,
    Delivery,
    Job,
    KnownTask,
    ModelVersion,
    PartialFrames,
    SupersededPrediction,
    Track,
    UnreadTask,
)
from backend.store.rows import UNFINISHED

OVER = ("failed", "rejected", "cancelled")
JOBS_AT_ONCE = 200
"""Jobs per transaction, small enough that nobody waits for it."""


class Retention:
    """Deletes jobs. Each method is one transaction or several short ones."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def drop_over(self, before: datetime | None, most: int) -> list[str]:
        """Deletes failed, rejected and cancelled jobs that nothing refers to; returns their ids.

        Args:
            before: delete those that ended earlier; None: age does not matter.
            most: keep at most this many, deleting the oldest beyond it whatever their age; 0: no limit.
        """
        dropped: list[str] = []
        after: tuple[datetime, str] | None = None
        until = self._oldest_kept(before, most)
        while until is not None:
            query = select(Job).where(Job.state.in_(OVER), Job.finished_at < until, ~_is_referred_to())
            if after is not None:
                query = query.where(tuple_(Job.finished_at, Job.id) > tuple_(*after))
            query = query.order_by(Job.finished_at, Job.id).limit(JOBS_AT_ONCE)
            with self.database.write() as session:
                jobs = session.scalars(query.with_for_update(skip_locked=True)).all()
                if not jobs:
                    break
                named = _named_by_others(session, jobs)
                chosen = [job.id for job in jobs if job.id not in named]
                _delete(session, chosen)
                dropped += chosen
                last = jobs[-1]
                after = (last.finished_at or last.created_at, last.id)
        return dropped

    def _oldest_kept(self, before: datetime | None, most: int) -> datetime | None:
        if not most:
            return before
        query = select(Job.finished_at).where(Job.state.in_(OVER), Job.finished_at.is_not(None))
        with self.database.read() as session:
            # The newest of the surplus jobs is deleted as well.
            edge = session.scalar(query.order_by(Job.finished_at.desc()).offset(most - 1).limit(1))
        return max((moment for moment in (before, edge) if moment is not None), default=None)

    def drop_task(self, project_id: int, task_id: int) -> list[str]:
        """Deletes everything about a task that no longer exists in Label Studio; returns the ids of its jobs.

        Deletes nothing if a person annotated it, one of its jobs is still active, or a model version came from it.

        Args:
            project_id: the store's own id.
            task_id: Label Studio's.
        """
        of_task = and_(Job.project_id == project_id, Job.task_id == task_id)
        with self.database.write() as session:
            if session.scalar(select(exists().where(of_task, or_(Job.state.in_(UNFINISHED), _is_referred_to())))):
                return []
            for table in (Annotation, Correction):
                if session.scalar(select(exists().where(table.project_id == project_id, table.task_id == task_id))):
                    return []
            ids = list(session.scalars(select(Job.id).where(of_task)))
            _delete(session, ids)
            for of in (KnownTask, SupersededPrediction, UnreadTask):
                session.execute(delete(of).where(of.project_id == project_id, of.task_id == task_id))
            return ids


def _is_referred_to() -> ColumnElement[bool]:
    """Whether something that is kept refers to a job, as far as a query can tell."""
    return or_(
        exists().where(Correction.job_id == Job.id),
        exists().where(or_(Annotation.job_id == Job.id, Annotation.refine_job_id == Job.id)),
        exists().where(ModelVersion.job_id == Job.id),
        exists().where(Adoption.job_id == Job.id),
        exists().where(Delivery.job_id == Job.id, Delivery.state == "pending"),
    )


def _named_by_others(session: Session, jobs: Sequence[Job]) -> set[str]:
    """Those of these jobs that other jobs of their tasks start from."""
    tasks = {job.task_id for job in jobs if job.task_id is not None}
    params: Any = select(Job.params).where(Job.task_id.in_(tasks), Job.kind != "prelabel")
    return {str(value) for held in session.scalars(params) for key, value in held.items() if key.endswith("job_id")}


def _delete(session: Session, job_ids: Sequence[str]) -> None:
    for start in range(0, len(job_ids), JOBS_AT_ONCE):
        ids = job_ids[start : start + JOBS_AT_ONCE]
        for table in (Track, Delivery, PartialFrames):
            session.execute(delete(table).where(table.job_id.in_(ids)))
        session.execute(delete(Job).where(Job.id.in_(ids)))
