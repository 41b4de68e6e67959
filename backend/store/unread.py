"""Unread tasks: tasks whose annotations have to be read because something may have changed in them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from backend.store.database import Database
from backend.store.models import UnreadTask, now


class UnreadTasks:
    """Reads and writes the table `annotation_hints`; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, project_id: int, task_ids: Iterable[int]) -> None:
        """Records that the annotations of these tasks have to be read now; repeats are merged."""
        insert: Any = sqlite.insert if self.database.is_sqlite else postgresql.insert
        moment = now()
        fresh = {"noted_at": moment, "due_at": moment, "attempts": 0, "last_error": ""}
        rows = [{"project_id": project_id, "task_id": task_id, **fresh} for task_id in dict.fromkeys(task_ids)]
        if not rows:
            return
        again = insert(UnreadTask).on_conflict_do_update(index_elements=["project_id", "task_id"], set_=fresh)
        with self.database.write() as session:
            session.execute(again, rows)

    def due(self, limit: int = 100) -> list[UnreadTask]:
        """Tasks to be read now, oldest first."""
        query = select(UnreadTask).where(UnreadTask.due_at <= now()).order_by(UnreadTask.due_at)
        with self.database.read() as session:
            return list(session.scalars(query.limit(limit)))

    def claim(self, task: UnreadTask, seconds: float = 120.0) -> bool:
        """Claims a due task for `seconds`, so that nobody else reads it; False if another process was faster."""
        moment = now()
        claim = (
            update(UnreadTask)
            .where(UnreadTask.id == task.id, UnreadTask.due_at <= moment)
            .values(due_at=moment + timedelta(seconds=seconds))
        )
        with self.database.write() as session:
            claimed: Any = session.execute(claim)
            return bool(claimed.rowcount)

    def drop(self, task: UnreadTask) -> None:
        """The task has been read; it stays if it was added again meanwhile."""
        read = delete(UnreadTask).where(UnreadTask.id == task.id, UnreadTask.noted_at == task.noted_at)
        with self.database.write() as session:
            session.execute(read)

    def postpone(self, task: UnreadTask, error: str, until: datetime) -> None:
        """The task could not be read; try again at `until`."""
        later = (
            update(UnreadTask)
            .where(UnreadTask.id == task.id, UnreadTask.noted_at == task.noted_at)
            .values(due_at=until, attempts=UnreadTask.attempts + 1, last_error=error)
        )
        with self.database.write() as session:
            session.execute(later)
