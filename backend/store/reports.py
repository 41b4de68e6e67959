"""Reports: the read-only queries of the jobs page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import and_, case, func, or_, select

from backend.store.database import Database
from backend.store.kinds import QUEUES
from backend.store.models import Annotation, Correction, Delivery, Job, Track, now


@dataclass(frozen=True)
class Wanted:
    """A filter for jobs; None or empty does not restrict.

    Args:
        state: one of JOB_STATES.
        kind: the name of a kind in backend.store.kinds.
        project_id: the store's own id.
        text: part of the instruction, the video's address or the error, ignoring case; or a task's or job's id.
    """

    state: str = ""
    kind: str = ""
    project_id: int | None = None
    text: str = ""


@dataclass(frozen=True)
class Edit:
    """A mask that a person changed, and the original; `predicted` is None if that is no longer stored."""

    correction_id: int
    left: dict[str, Any]
    predicted: dict[str, Any] | None


class Reports:
    """Reads one store. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def jobs(self, wanted: Wanted, limit: int, offset: int = 0) -> list[Job]:
        """One page of jobs: running ones, then the newest; if only queued ones are wanted, the next to run first."""
        # Order by id first: sorting whole jobs, results included, takes ten times as long.
        query = chosen(select(Job.id), wanted)
        if wanted.state == "queued":
            turn = case({name: place for place, name in enumerate(QUEUES)}, value=Job.queue, else_=len(QUEUES))
            query = query.order_by(turn, Job.created_at, Job.id)
        else:
            query = query.order_by(case((Job.state == "running", 0), else_=1), Job.created_at.desc(), Job.id)
        with self.database.read() as session:
            ids = list(session.scalars(query.limit(limit).offset(offset)))
            found = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(ids)))}
        return [found[job_id] for job_id in ids]

    def count_by_state(self, wanted: Wanted) -> dict[str, int]:
        """The number of jobs in each state that occurs; `wanted.state` is ignored."""
        query = chosen(select(Job.state, func.count()), replace(wanted, state=""))
        with self.database.read() as session:
            return {row[0]: row[1] for row in session.execute(query.group_by(Job.state))}

    def newest(self, wanted: Wanted) -> datetime | None:
        """When the newest of the jobs was created; None if there are none."""
        with self.database.read() as session:
            return session.scalar(chosen(select(func.max(Job.created_at)), wanted))

    def ahead(self, job: Job) -> int:
        """The number of queued jobs that workers will take before this queued one."""
        sooner = QUEUES[: QUEUES.index(job.queue)]
        first = and_(Job.queue == job.queue, Job.created_at < job.created_at)
        query = select(func.count()).where(Job.state == "queued", or_(Job.queue.in_(sooner), first))
        with self.database.read() as session:
            return session.scalar(query) or 0

    def deliveries(self, job_ids: Sequence[str]) -> dict[str, Delivery]:
        """The deliveries of these jobs, by the job's id."""
        query = select(Delivery).where(Delivery.job_id.in_(job_ids))
        with self.database.read() as session:
            return {delivery.job_id: delivery for delivery in session.scalars(query)}

    def tracks(self, job_id: str) -> list[Track]:
        """The tracks of a job, in the order written; empty if it is not done."""
        query = select(Track).where(Track.job_id == job_id).order_by(Track.position)
        with self.database.read() as session:
            return list(session.scalars(query))

    def tasks_per_day(self, days: int, until: date | None = None) -> dict[date, int]:
        """The number of tasks that got a result on each of the last `days` days (UTC), ending today (0 if none).

        A task with several results on one day counts once.
        """
        last = until or now().date()
        dates = [last - timedelta(days=back) for back in range(days - 1, -1, -1)]
        return self._per_day(dates, Job.finished_at, (Job.project_id, Job.task_id), Job.state == "done")

    def annotated_per_day(self, days: int, until: date | None = None) -> dict[date, int]:
        """Like `tasks_per_day`, for tasks whose annotation a person saved; deleted ones do not count."""
        last = until or now().date()
        dates = [last - timedelta(days=back) for back in range(days - 1, -1, -1)]
        unit = (Annotation.project_id, Annotation.task_id)
        return self._per_day(dates, Annotation.when, unit, Annotation.withdrawn_at.is_(None))

    def edits(self, correction_ids: Sequence[int]) -> list[Edit]:
        """These corrections with the masks that they changed. Reads all their tracks: pass at most a few hundred."""
        here = and_(Track.job_id == Correction.job_id, Track.uid == Correction.track_uid)
        query = select(Correction, Track).outerjoin(Track, here).where(Correction.id.in_(correction_ids))
        found = []
        with self.database.read() as session:
            for correction, track in session.execute(query):
                frames = track.frames if track is not None else []
                known = correction.frame_index < len(frames)
                predicted = frames[correction.frame_index]["rle"] if known else None
                if correction.rle is not None:
                    found.append(Edit(correction.id, correction.rle, predicted))
        return found

    def _per_day(self, dates: Sequence[date], moment: Any, unit: tuple[Any, ...], condition: Any) -> dict[date, int]:
        """Distinct `unit`s by the day of `moment`."""
        # Days are compared as ranges: SQLite and PostgreSQL extract a day from a time differently.
        starts = [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in dates]
        day = case(
            *((moment < start + timedelta(days=1), number) for number, start in enumerate(starts)), else_=len(dates)
        )
        distinct = select(day.label("day"), *unit).where(condition, moment >= starts[0], unit[-1].is_not(None))
        rows = distinct.distinct().subquery()
        query = select(rows.c.day, func.count()).group_by(rows.c.day)
        with self.database.read() as session:
            counts = {row[0]: row[1] for row in session.execute(query)}
        return {day: counts.get(number, 0) for number, day in enumerate(dates)}


def chosen(query: Any, wanted: Wanted) -> Any:
    """A query for jobs, restricted by the filter."""
    if wanted.state:
        query = query.where(Job.state == wanted.state)
    if wanted.kind:
        query = query.where(Job.kind == wanted.kind)
    if wanted.project_id is not None:
        query = query.where(Job.project_id == wanted.project_id)
    if text := wanted.text:
        held = [column.icontains(text, autoescape=True) for column in (Job.instruction, Job.video, Job.error)]
        held.append(Job.id.startswith(text, autoescape=True))
        if text.isdecimal() and len(text) < 10:
            held.append(Job.task_id == int(text))
        query = query.where(or_(*held))
    return query
