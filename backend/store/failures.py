"""Failures: failed jobs, undeliverable results and postponed jobs grouped by reason, to be handled together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, literal_column, select, update
from sqlalchemy.orm import Session

from backend.store.clock import database_now
from backend.store.database import Database
from backend.store.models import Delivery, Job, now
from backend.store.reasons import REASON_LENGTH
from backend.store.rows import restart

REJECTED, FAILED, UNDELIVERED, WAITING = "rejected", "failed", "undelivered", "waiting"
"""What is wrong with the jobs of a group: rejected, failed, the result cannot be delivered, or it is postponed."""
AT_ONCE = 500
"""Jobs per transaction."""

MOST_GROUPS = 200
"""Most groups that are read at once."""


@dataclass(frozen=True)
class FailureGroup:
    """Failures with the same reason.

    Attributes:
        reason: see `reasons.reason_key`.
        trouble: REJECTED, FAILED, UNDELIVERED or WAITING.
        error, remedy: of the newest failure.
        same_words: all have exactly this error; otherwise they differ in numbers, names or addresses.
        count: number of failures.
        newest_job: id of the job with the newest failure.
        newest: time of the newest failure, or since when the newest of the waiting jobs has been postponed.
    """

    reason: str
    trouble: str
    error: str
    remedy: str
    same_words: bool
    count: int
    newest_job: str
    newest: datetime

    @property
    def key(self) -> str:
        return f"{self.trouble}-{self.reason}"

    @property
    def retryable(self) -> bool:
        """A rejected job would be rejected again until its task changes; a waiting one runs by itself."""
        return self.trouble in (FAILED, UNDELIVERED)


@dataclass(frozen=True)
class _Source:
    """Where the failures of one trouble are: their rows, texts and times."""

    where: tuple[ColumnElement[bool], ...]
    reason: Any
    error: Any
    remedy: Any
    moment: Any

    def select(self, project_id: int | None, *columns: Any) -> Select[Any]:
        """A query for columns of these rows."""
        # A literal, not a parameter: otherwise the planner may not see that the partial index has all of these rows.
        query = select(*columns).where(*self.where, self.reason != literal_column("''"))
        return query if project_id is None else query.where(Job.project_id == project_id)


_SOURCES = {
    trouble: _Source((Job.state == state,), Job.reason, Job.error, Job.remedy, moment)
    for trouble, state, moment in (
        (FAILED, "failed", Job.finished_at),
        (REJECTED, "rejected", Job.finished_at),
        (WAITING, "queued", Job.waiting_since),
    )
}
_SOURCES[WAITING] = replace(_SOURCES[WAITING], error=Job.waiting_for, remedy=literal(""))
_SOURCES[UNDELIVERED] = _Source(
    (Delivery.state == "failed", Delivery.job_id == Job.id, Job.state == "done"),
    Delivery.reason,
    Delivery.last_error,
    literal(""),
    Delivery.next_attempt_at,
)


class Failures:
    """Reads and retries failures; safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def groups(
        self,
        project_id: int | None = None,
        troubles: Sequence[str] = (FAILED, REJECTED, UNDELIVERED),
        limit: int = MOST_GROUPS,
    ) -> list[FailureGroup]:
        """The failures by reason, largest group first.

        Args:
            project_id: the store's own id; None: all projects.
            troubles: which failures.
            limit: most groups.
        """
        found: list[tuple[int, str, str]] = []
        with self.database.read() as session:
            for trouble in troubles:
                source = _SOURCES[trouble]
                query = source.select(project_id, source.reason, func.count()).group_by(source.reason)
                largest = session.execute(query.order_by(func.count().desc(), source.reason).limit(limit))
                found += [(count, trouble, reason) for reason, count in largest]
            found.sort(key=lambda one: (-one[0], one[1:]))
            groups = [_group(session, trouble, reason, count, project_id) for count, trouble, reason in found[:limit]]
        return [group for group in groups if group is not None]

    def waiting(self, project_id: int | None = None, limit: int = MOST_GROUPS) -> list[FailureGroup]:
        """The queued jobs that wait for more than a worker, by what they wait for, largest group first."""
        return self.groups(project_id, (WAITING,), limit)

    def group(self, key: str, project_id: int | None = None) -> FailureGroup | None:
        """One group of `groups` or `waiting`; None if no job has that reason any more."""
        trouble, _, reason = key.partition("-")
        if trouble not in _SOURCES or len(reason) != REASON_LENGTH:
            return None
        source = _SOURCES[trouble]
        with self.database.read() as session:
            count = session.scalar(source.select(project_id, func.count()).where(source.reason == reason)) or 0
            return _group(session, trouble, reason, count, project_id)

    def job_ids(self, group: FailureGroup, project_id: int | None = None) -> list[str]:
        """The jobs that are in a group now."""
        source = _SOURCES[group.trouble]
        with self.database.read() as session:
            return list(session.scalars(source.select(project_id, Job.id).where(source.reason == group.reason)))

    def queue_again(self, job_ids: Sequence[str]) -> list[Job]:
        """Queues those of the jobs that are still failed, as new; returns them. The caller puts them into the queue."""
        queued: list[Job] = []
        for ids in _parts(job_ids):
            with self.database.write() as session:
                jobs = session.scalars(
                    select(Job).where(Job.id.in_(ids), Job.state == "failed").with_for_update()
                ).all()
                queued += restart(session, jobs)
        return queued

    def deliver_again(self, job_ids: Sequence[str]) -> int:
        """Makes the abandoned deliveries of these jobs due now; returns how many."""
        count = 0
        for ids in _parts(job_ids):
            again = update(Delivery).where(Delivery.job_id.in_(ids), Delivery.state == "failed")
            with self.database.write() as session:
                due = database_now(session)
                changed: Any = session.execute(again.values(state="pending", attempts=0, next_attempt_at=due))
                count += int(changed.rowcount)
        return count


def _parts(job_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (job_ids[start : start + AT_ONCE] for start in range(0, len(job_ids), AT_ONCE))


def _group(session: Session, trouble: str, reason: str, count: int, project_id: int | None) -> FailureGroup | None:
    """The group with its newest failure; None if it has just become empty."""
    source = _SOURCES[trouble]
    members = source.select(project_id, Job.id, source.error, source.remedy, source.moment).where(
        source.reason == reason
    )
    newest = session.execute(members.order_by(source.moment.desc()).limit(1)).first()
    if newest is None:
        return None
    job_id, error, remedy, moment = newest
    differs = session.execute(members.where(source.error != error).limit(1)).first()
    return FailureGroup(reason, trouble, error, remedy, differs is None, count, job_id, moment or now())
