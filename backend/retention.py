"""Retention: deletes finished jobs that are no longer needed after a while, with their pictures."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from datetime import timedelta

from backend.settings import Settings
from backend.store import Store
from backend.store.models import now

log = logging.getLogger("trajseg.retention")


def drop_finished_jobs(store: Store, settings: Settings) -> int:
    """Deletes failed, rejected and cancelled jobs per the settings; returns how many. See backend.store.retention."""
    before = now() - timedelta(days=settings.job_days) if settings.job_days else None
    dropped = store.retention.drop_over(before, settings.most_failed_jobs)
    drop_pictures(settings, dropped)
    if dropped:
        log.info("%d failed, rejected and cancelled jobs were deleted", len(dropped))
    return len(dropped)


def drop_pictures(settings: Settings, job_ids: Iterable[str]) -> None:
    """Deletes the shown frames of jobs."""
    for job_id in job_ids:
        shutil.rmtree(settings.media_dir / job_id, ignore_errors=True)
