"""Label Studio tasks: which may be open, and which state their columns show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, false, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from backend.store.database import Database
from backend.store.models import Delivery, Job, KnownTask, now

TaskKey = tuple[int, int]
"""The store's own project id, and Label Studio's task id."""
AT_ONCE = 500
WAITING = "queued"
"""How the state of a task ends while its newest job waits."""


@dataclass(frozen=True)
class JobSummary:
    """What a task's state depends on in one of its jobs; `sent_at` of a delivery only if it is a prediction."""

    id: str
    kind: str
    typed: bool
    state: str
    frames_done: int
    frames_total: int
    error: str
    rejection: str
    created_at: datetime
    finished_at: datetime | None
    visible: int | None
    delivery_state: str | None
    delivery_error: str | None
    sent_at: datetime | None


class Tasks:
    """Reads and writes the table `tasks`; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def opened(self, project_id: int, task_id: int) -> None:
        """Someone has the task open now."""
        self._write([(project_id, task_id)], {"opened_at": now()})

    def note_opened(self, session: Session, keys: Iterable[TaskKey]) -> None:
        """`opened`, in the caller's transaction."""
        self._upsert(session, list(keys), {"opened_at": now()})

    def is_open(self, project_id: int, task_id: int, hours: float) -> bool:
        """Whether someone opened the task in the last `hours` and may still have it open."""
        known = self.known([(project_id, task_id)]).get((project_id, task_id))
        return bool(known and known.opened_at and known.opened_at > now() - timedelta(hours=hours))

    def settle(self, project_id: int, task_id: int, state: str) -> None:
        """Records the state of the task while no job is active on it."""
        self._write([(project_id, task_id)], {"settled": state, "settled_at": now()})

    def shown(self, keys: Iterable[TaskKey], state: str) -> None:
        """Label Studio now shows this state for these tasks."""
        self._write(list(keys), {"shown": state, "shown_at": now()})

    def known(self, keys: Sequence[TaskKey]) -> dict[TaskKey, KnownTask]:
        """What is known about these tasks; unknown ones are left out."""
        wanted = set(keys)
        found: dict[TaskKey, KnownTask] = {}
        ids = sorted({task_id for _, task_id in wanted})
        with self.database.read() as session:
            for start in range(0, len(ids), AT_ONCE):
                query = select(KnownTask).where(KnownTask.task_id.in_(ids[start : start + AT_ONCE]))
                found |= {(row.project_id, row.task_id): row for row in session.scalars(query)}
        return {key: row for key, row in found.items() if key in wanted}

    def active(self, since: datetime) -> list[TaskKey]:
        """Tasks with a running job, or one that ended since then."""
        query = _tasks_with_jobs().where((Job.state == "running") | (Job.finished_at >= since))
        with self.database.read() as session:
            return [(row[0], row[1]) for row in session.execute(query.distinct())]

    def waiting(self, created_before: datetime, limit: int) -> list[TaskKey]:
        """Tasks with a queued job created before then whose shown state does not say so yet.

        Those whose jobs have waited longest, of up to `limit` jobs.
        """
        says_so = KnownTask.shown.like(f"%{WAITING}") & (KnownTask.shown_at >= Job.created_at)
        same_task = (KnownTask.project_id == Job.project_id) & (KnownTask.task_id == Job.task_id)
        query = (
            _tasks_with_jobs()
            .outerjoin(KnownTask, same_task)
            .where(
                Job.state == "queued", Job.created_at <= created_before, func.coalesce(says_so, false()).is_(false())
            )
            .order_by(Job.created_at)
            .limit(limit)
        )
        with self.database.read() as session:
            return list(dict.fromkeys((row[0], row[1]) for row in session.execute(query)))

    def jobs(self, keys: Sequence[TaskKey]) -> dict[TaskKey, list[JobSummary]]:
        """The jobs of these tasks, oldest first."""
        wanted: dict[TaskKey, list[JobSummary]] = {key: [] for key in keys}
        ids = sorted({task_id for _, task_id in wanted})
        columns = (
            Job.project_id,
            Job.task_id,
            Job.id,
            Job.kind,
            func.coalesce(Job.params["typed"].as_boolean(), False),
            Job.state,
            Job.frames_done,
            Job.frames_total,
            Job.error,
            Job.rejection,
            Job.created_at,
            Job.finished_at,
            Job.result["visible"].as_integer(),
            Delivery.state,
            Delivery.last_error,
            Delivery.sent_at,
            Delivery.prediction_id,
        )
        with self.database.read() as session:
            for start in range(0, len(ids), AT_ONCE):
                query = (
                    select(*columns)
                    .outerjoin(Delivery, Delivery.job_id == Job.id)
                    .where(Job.task_id.in_(ids[start : start + AT_ONCE]))
                    .order_by(Job.created_at, Job.id)
                )
                for row in session.execute(query):
                    project_id, task_id, *rest = row[:-2]
                    sent_at, prediction_id = row[-2:]
                    if (project_id, task_id) in wanted:
                        delivered = sent_at if prediction_id is not None else None
                        wanted[project_id, task_id].append(JobSummary(*rest, delivered))  # type: ignore[call-arg]
        return wanted

    def _write(self, keys: Sequence[TaskKey], values: Mapping[str, Any]) -> None:
        keys = sorted(set(keys))
        for start in range(0, len(keys), AT_ONCE):
            with self.database.write() as session:
                self._upsert(session, keys[start : start + AT_ONCE], values)

    def _upsert(self, session: Session, keys: Sequence[TaskKey], values: Mapping[str, Any]) -> None:
        if not keys:
            return
        insert = sqlite.insert if self.database.is_sqlite else postgresql.insert
        # Always in the same order: writers that lock the same rows in different orders would deadlock.
        rows = [{"project_id": project_id, "task_id": task_id, **values} for project_id, task_id in sorted(set(keys))]
        table: Any = KnownTask.__table__
        added = insert(table).on_conflict_do_update(index_elements=["project_id", "task_id"], set_=dict(values))
        session.execute(added, rows)


def _tasks_with_jobs() -> Select[*tuple[Any, ...]]:
    return select(Job.project_id, Job.task_id).where(Job.project_id.is_not(None), Job.task_id.is_not(None))
