"""Typical job durations, measured from done jobs."""

from __future__ import annotations

from statistics import median

from sqlalchemy import select

from backend.store.database import Database
from backend.store.models import Job

RECENT = 7
"""Number of recent jobs considered."""


def typical_seconds(database: Database, project_id: int, kind: str, model_version: str) -> float | None:
    """Median duration in seconds of a project's recent jobs of one kind and model version; None without any.

    Args:
        project_id: the store's own id.
    """
    query = (
        select(Job.started_at, Job.finished_at)
        .where(Job.project_id == project_id, Job.kind == kind, Job.model_version == model_version, Job.state == "done")
        .order_by(Job.finished_at.desc())
        .limit(RECENT)
    )
    with database.read() as session:
        times = [(end - start).total_seconds() for start, end in session.execute(query) if start and end]
    return median(times) if times else None
