"""Pictures of tasks: which Label Studio tasks hold links to shown frames, and when to check them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, exists, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from backend.store.database import Database
from backend.store.models import Delivery, Job, TaskPictures, now
from backend.store.rows import UNFINISHED


class Pictures:
    """Reads and writes the table `task_pictures`; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def note(self, project_id: int, task_id: int, due_at: datetime) -> None:
        """A task has links to shown frames; they will be checked at `due_at`.

        Args:
            project_id: the store's own id.
            task_id: Label Studio's id.
        """
        insert = sqlite.insert if self.database.is_sqlite else postgresql.insert
        row = {"project_id": project_id, "task_id": task_id, "due_at": due_at, "missing_since": None}
        written = insert(TaskPictures).values(row)
        with self.database.write() as session:
            session.execute(
                written.on_conflict_do_update(
                    index_elements=["project_id", "task_id"], set_={"due_at": due_at, "missing_since": None}
                )
            )

    def hurry(self, project_id: int | None = None, task_id: int | None = None, job_id: str | None = None) -> int:
        """Makes tasks due now: one task, all of a project, or that of a job. Returns how many."""
        moment = now()
        query = update(TaskPictures).where(TaskPictures.due_at > moment).values(due_at=moment)
        if project_id is not None:
            query = query.where(TaskPictures.project_id == project_id)
        if task_id is not None:
            query = query.where(TaskPictures.task_id == task_id)
        if job_id is not None:
            same = (Job.project_id == TaskPictures.project_id) & (Job.task_id == TaskPictures.task_id)
            query = query.where(exists().where(Job.id == job_id, same))
        with self.database.write() as session:
            changed: Any = session.execute(query.execution_options(synchronize_session=False))
            return int(changed.rowcount)

    def due(self, limit: int) -> list[TaskPictures]:
        """Tasks that are due and that nothing is about to change, longest due first."""
        same = (Job.project_id == TaskPictures.project_id) & (Job.task_id == TaskPictures.task_id)
        waiting = exists().where(Delivery.job_id == Job.id, Delivery.state == "pending")
        busy = exists().where(same, or_(Job.state.in_(UNFINISHED), waiting))
        query = select(TaskPictures).where(TaskPictures.due_at <= now(), ~busy).order_by(TaskPictures.due_at)
        with self.database.read() as session:
            return list(session.scalars(query.limit(limit)))

    def claim(self, row: TaskPictures, seconds: float) -> bool:
        """Claims a due task for `seconds`, so that nobody else checks it; False if another process was faster."""
        same = (TaskPictures.id == row.id) & (TaskPictures.due_at == row.due_at)
        taken = update(TaskPictures).where(same).values(due_at=now() + timedelta(seconds=seconds))
        with self.database.write() as session:
            changed: Any = session.execute(taken)
            return bool(changed.rowcount)

    def miss(self, row: TaskPictures, due_at: datetime) -> datetime:
        """Label Studio has no such task; returns since when, and schedules another check at `due_at`."""
        since = row.missing_since or now()
        with self.database.write() as session:
            session.execute(
                update(TaskPictures).where(TaskPictures.id == row.id).values(missing_since=since, due_at=due_at)
            )
        return since

    def drop(self, row: TaskPictures) -> None:
        """The task is gone, and so are its pictures."""
        with self.database.write() as session:
            session.execute(delete(TaskPictures).where(TaskPictures.id == row.id))

    def jobs_of(self, project_id: int, task_id: int) -> Sequence[str]:
        """The jobs of a task; its pictures are in folders named after them."""
        query = select(Job.id).where(Job.project_id == project_id, Job.task_id == task_id)
        with self.database.read() as session:
            return session.scalars(query).all()
