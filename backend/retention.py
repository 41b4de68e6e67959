"""Retention: deletes finished jobs that are no longer needed after a while, with their pictures."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from backend.settings import Settings
from backend.store import Store, UnknownJobError
from backend.store.models import now
from backend.store.rows import UNFINISHED

log = logging.getLogger("trajseg.retention")


TRAINING_DAYS = 7.0
"""How long the folder of a failed training is kept: a retry resumes from it."""


def drop_trainings(store: Store, settings: Settings) -> int:
    """Deletes the folders of trainings that nobody will resume; returns how many."""
    dropped = 0
    for folder in (settings.data_dir / "training").glob("*"):
        try:
            job = store.jobs.get(folder.name)
            over = job.finished_at if job.state == "failed" else None
            needed = job.state in UNFINISHED
        except UnknownJobError:
            # It may belong to another store.
            over, needed = datetime.fromtimestamp(folder.stat().st_mtime, UTC), False
        if not needed and (over is None or now() - over > timedelta(days=TRAINING_DAYS)):
            shutil.rmtree(folder, ignore_errors=True)
            dropped += 1
    return dropped


def drop_finished_jobs(store: Store, settings: Settings) -> int:
    """Deletes failed, rejected and cancelled jobs per the settings; returns how many. See backend.store.retention."""
    before = now() - timedelta(days=settings.job_days) if settings.job_days else None
    dropped = store.retention.drop_over(before, settings.most_failed_jobs)
    drop_pictures(settings, dropped)
    drop_trainings(store, settings)
    if dropped:
        log.info("%d failed, rejected and cancelled jobs were deleted", len(dropped))
    return len(dropped)


def drop_pictures(settings: Settings, job_ids: Iterable[str]) -> None:
    """Deletes the shown frames of jobs."""
    for job_id in job_ids:
        shutil.rmtree(settings.media_dir / job_id, ignore_errors=True)
