"""Selections: all jobs selected on the jobs page, to be cancelled or queued again together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update

from backend.store.database import Database
from backend.store.models import Job, PartialFrames, now
from backend.store.reports import Wanted, chosen
from backend.store.rows import UNFINISHED, restart

AT_ONCE = 500
"""Jobs per transaction."""


class Selections:
    """Changes many jobs at once. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def cancel(self, wanted: Wanted, until: datetime) -> list[str]:
        """Cancels the selected unfinished jobs; returns their ids, for the caller to remove from the queue.

        Running ones stop at their next frame.

        Args:
            until: jobs created later are left alone, since nobody has seen them.
        """
        return self._cancel(self._parts(wanted, UNFINISHED, until), UNFINISHED)

    def cancel_waiting(self, job_ids: Sequence[str]) -> list[str]:
        """Cancels those of these jobs that are still queued; returns their ids, as `cancel` does."""
        return self._cancel([job_ids[start : start + AT_ONCE] for start in range(0, len(job_ids), AT_ONCE)], ["queued"])

    def _cancel(self, parts: Sequence[Sequence[str]], states: Sequence[str]) -> list[str]:
        cancelled: list[str] = []
        for ids in parts:
            with self.database.write() as session:
                here = list(session.scalars(select(Job.id).where(Job.id.in_(ids), Job.state.in_(states))))
                session.execute(delete(PartialFrames).where(PartialFrames.job_id.in_(here)))
                stop: Any = update(Job).where(Job.id.in_(here))
                session.execute(stop.values(state="cancelled", finished_at=now(), eta_seconds=None))
                cancelled += here
        return cancelled

    def queue_again(self, wanted: Wanted, until: datetime) -> list[Job]:
        """Queues the selected failed or cancelled jobs as new, see `restart`; returns them, for the caller to queue."""
        queued: list[Job] = []
        for ids in self._parts(wanted, ("failed", "cancelled"), until):
            with self.database.write() as session:
                found = select(Job).where(Job.id.in_(ids), Job.state.in_(("failed", "cancelled"))).with_for_update()
                queued += restart(session, list(session.scalars(found)))
        return queued

    def _parts(self, wanted: Wanted, states: Sequence[str], until: datetime) -> list[list[str]]:
        query = chosen(select(Job.id), wanted).where(Job.state.in_(states), Job.created_at <= until)
        with self.database.read() as session:
            ids = list(session.scalars(query.order_by(Job.created_at)))
        return [ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE)]
