"""Figures for /metrics: failed and waiting jobs by reason, and ages of the oldest waiting items."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from backend.store.clock import database_now
from backend.store.database import Database
from backend.store.models import Delivery, Job
from backend.store.reasons import pattern

MOST_TEXTS = 500
"""Most different texts considered; rarer ones count as OTHER."""
MOST_REASONS = 20
LONGEST_REASON = 120
OTHER = "other"


class Figures:
    """Counts over the tables, one query each."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def failed_by_reason(self) -> dict[str, int]:
        """The number of failed jobs, grouped by error pattern (see backend.store.reasons)."""
        return self._by_reason(Job.error, Job.state == "failed")

    def held_by_reason(self) -> dict[str, int]:
        """The number of queued jobs that wait for something other than a worker, by what they wait for."""
        return self._by_reason(Job.waiting_for, (Job.state == "queued") & (Job.waiting_for != ""))

    def queue_ages(self) -> dict[str, float]:
        """Seconds since the oldest startable job was requested, by queue."""
        with self.database.read() as session:
            present = database_now(session)
            due = or_(Job.not_before.is_(None), Job.not_before <= present)
            query = select(Job.queue, func.min(Job.created_at)).where(Job.state == "queued", due).group_by(Job.queue)
            return {name: _age(present, oldest) for name, oldest in session.execute(query)}

    def delivery_age(self) -> float:
        """Seconds since the oldest undelivered delivery was created; 0 if there is none."""
        with self.database.read() as session:
            oldest = session.scalar(select(func.min(Delivery.created_at)).where(Delivery.state == "pending"))
            return _age(database_now(session), oldest) if oldest is not None else 0.0

    def _by_reason(self, text: InstrumentedAttribute[str], where: ColumnElement[bool]) -> dict[str, int]:
        query = select(text, func.count()).where(where).group_by(text).order_by(func.count().desc())
        reasons: Counter[str] = Counter()
        with self.database.read() as session:
            for number, (said, jobs) in enumerate(session.execute(query)):
                reasons[pattern(said)[:LONGEST_REASON] if number < MOST_TEXTS else OTHER] += jobs
        kept = dict(reasons.most_common(MOST_REASONS))
        rest = sum(reasons.values()) - sum(kept.values())
        return {**kept, OTHER: kept.get(OTHER, 0) + rest} if rest else kept


def _age(present: datetime, since: datetime) -> float:
    return max((present - since).total_seconds(), 0.0)
