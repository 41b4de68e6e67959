"""Failures: failed jobs, undeliverable results and postponed jobs grouped by reason, to be handled together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from backend.store.clock import database_now
from backend.store.database import Database
from backend.store.models import Delivery, Job, now
from backend.store.rows import restart

REJECTED, FAILED, UNDELIVERED, WAITING = "rejected", "failed", "undelivered", "waiting"
"""What is wrong with the jobs of a group: rejected, failed, the result cannot be delivered, or it is postponed."""
AT_ONCE = 500
"""Jobs per transaction."""

_VARIABLE = re.compile(
    r"https?://\S+|[\"'`][^\"'`]{1,400}[\"'`]"  # addresses and quoted text
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}"  # ids
    r"|(?:\S*/)+\S*|\S+\.(?:mp4|webm|mkv|mov|avi|jpg|png)\b"  # files
    r"|\d+(?:\.\d+)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FailureGroup:
    """Failures with the same reason.

    Attributes:
        key: identifies the group; stays the same for later failures with this reason.
        trouble: REJECTED, FAILED, UNDELIVERED or WAITING.
        error, remedy: of the newest failure.
        same_words: all have exactly this error; otherwise they differ in numbers, names or addresses.
        job_ids: newest failure first.
        newest: time of the newest failure, or since when the newest of the waiting jobs has been postponed.
    """

    key: str
    trouble: str
    error: str
    remedy: str
    same_words: bool
    job_ids: tuple[str, ...]
    newest: datetime

    @property
    def retryable(self) -> bool:
        """A rejected job would be rejected again until its task changes; a waiting one runs by itself."""
        return self.trouble in (FAILED, UNDELIVERED)


def pattern(error: str) -> str:
    """The error without numbers, names, files and addresses: equal for errors with the same reason."""
    return " ".join(_VARIABLE.sub("…", error).split())


class Failures:
    """Reads and retries failures; safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def groups(self, project_id: int | None = None) -> list[FailureGroup]:
        """All failures by reason, largest group first.

        Args:
            project_id: the store's own id; None: all projects.
        """
        failed = select(Job.state, Job.id, Job.error, Job.remedy, Job.finished_at).where(
            Job.state.in_((FAILED, REJECTED))
        )
        undelivered = (
            select(Job.id, Delivery.last_error, Delivery.next_attempt_at)
            .join(Delivery, Delivery.job_id == Job.id)
            .where(Job.state == "done", Delivery.state == "failed")
        )
        if project_id is not None:
            failed = failed.where(Job.project_id == project_id)
            undelivered = undelivered.where(Job.project_id == project_id)
        found: list[tuple[str, str, str, str, datetime]] = []
        with self.database.read() as session:
            for state, job_id, error, remedy, moment in session.execute(failed):
                found.append((state, job_id, error, remedy, moment or now()))
            for job_id, error, moment in session.execute(undelivered):
                found.append((UNDELIVERED, job_id, error, "", moment))
        return _grouped(found)

    def waiting(self, project_id: int | None = None) -> list[FailureGroup]:
        """The queued jobs that wait for more than a worker, by what they wait for, largest group first."""
        query = select(Job.id, Job.waiting_for, Job.waiting_since).where(Job.state == "queued", Job.waiting_for != "")
        if project_id is not None:
            query = query.where(Job.project_id == project_id)
        with self.database.read() as session:
            rows = session.execute(query).all()
        return _grouped((WAITING, job_id, reason, "", since or now()) for job_id, reason, since in rows)

    def group(self, key: str, project_id: int | None = None) -> FailureGroup | None:
        """One group of `groups` or `waiting`; None if no job has that reason any more."""
        for read in (self.groups, self.waiting):
            if found := next((group for group in read(project_id) if group.key == key), None):
                return found
        return None

    def queue_again(self, job_ids: Sequence[str]) -> list[Job]:
        """Queues those of the jobs that are still failed, as new; returns them. The caller puts them into the queue."""
        queued: list[Job] = []
        for ids in _parts(job_ids):
            with self.database.write() as session:
                jobs = session.scalars(
                    select(Job).where(Job.id.in_(ids), Job.state == "failed").with_for_update()
                ).all()
                restart(session, jobs)
                queued += jobs
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


def _grouped(found: Iterable[tuple[str, str, str, str, datetime]]) -> list[FailureGroup]:
    groups: dict[tuple[str, str], list[tuple[str, str, str, datetime]]] = {}
    for trouble, job_id, error, remedy, moment in found:
        groups.setdefault((trouble, pattern(error)), []).append((job_id, error, remedy, moment))
    made = []
    for (trouble, words), members in groups.items():
        members.sort(key=lambda member: member[3], reverse=True)
        made.append(
            FailureGroup(
                key=hashlib.sha256(f"{trouble} {words}".encode()).hexdigest()[:16],
                trouble=trouble,
                error=members[0][1],
                remedy=members[0][2],
                same_words=len({member[1] for member in members}) == 1,
                job_ids=tuple(member[0] for member in members),
                newest=members[0][3],
            )
        )
    return sorted(made, key=lambda group: (-len(group.job_ids), group.key))
