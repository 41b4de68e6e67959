"""Superseded predictions: which predictions in Label Studio are to be deleted, and when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from backend.store.database import Database
from backend.store.models import SupersededPrediction, now


class Superseded:
    """Reads and writes the table `superseded_predictions`; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, project_id: int, task_id: int, prediction_ids: Sequence[int], delete_at: datetime) -> None:
        """Records predictions of a task as superseded; one already recorded keeps its time.

        Args:
            project_id: the store's own id.
            task_id, prediction_ids: Label Studio's ids.
        """
        rows = [
            {"project_id": project_id, "task_id": task_id, "prediction_id": one, "delete_at": delete_at}
            for one in prediction_ids
        ]
        if not rows:
            return
        insert = sqlite.insert if self.database.is_sqlite else postgresql.insert
        added = insert(SupersededPrediction).on_conflict_do_nothing(index_elements=["project_id", "prediction_id"])
        with self.database.write() as session:
            session.execute(added, rows)

    def due(self, limit: int = 100) -> list[SupersededPrediction]:
        """Superseded predictions that are due, longest due first."""
        query = (
            select(SupersededPrediction)
            .where(SupersededPrediction.delete_at <= now())
            .order_by(SupersededPrediction.delete_at)
            .limit(limit)
        )
        with self.database.read() as session:
            return list(session.scalars(query))

    def of_task(self, project_id: int, task_id: int) -> list[SupersededPrediction]:
        """The superseded predictions of one task, by id."""
        query = select(SupersededPrediction).where(
            SupersededPrediction.project_id == project_id, SupersededPrediction.task_id == task_id
        )
        with self.database.read() as session:
            return list(session.scalars(query.order_by(SupersededPrediction.prediction_id)))

    def postpone(self, project_id: int, task_id: int, until: datetime) -> None:
        """Someone opened the task, or something still refers to its predictions: delete none before `until`."""
        later = (
            update(SupersededPrediction)
            .where(
                SupersededPrediction.project_id == project_id,
                SupersededPrediction.task_id == task_id,
                SupersededPrediction.delete_at < until,
            )
            .values(delete_at=until)
        )
        with self.database.write() as session:
            session.execute(later)

    def drop(self, row: SupersededPrediction) -> None:
        """It has been deleted in Label Studio, or is in use again."""
        with self.database.write() as session:
            session.execute(delete(SupersededPrediction).where(SupersededPrediction.id == row.id))
