"""Openings: Label Studio does not say who has a task open, so what its page asks of us is noted."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from backend.label_studio.incoming.payloads import Task
from backend.store import Project, Store, UnknownJobError
from trajseg.errors import ServiceError

log = logging.getLogger("trajseg.backend")

NOTED_EVERY_SECONDS = 5.0
"""A page asks for all its pictures at once; the task is noted once."""
MOST_JOBS = 10_000
"""Jobs kept in memory."""


class Openings:
    """Notes that a task is open. Safe to share between threads: at worst something is noted twice."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._noted: dict[str, float] = {}

    def note(self, project: Project, tasks: Sequence[Task]) -> None:
        """Somebody has these tasks open: their pictures keep their places, and their predictions stay."""
        for task in tasks:
            if task.id is not None:
                self._store.tasks.opened(project.id, task.id)

    def seen(self, job_id: str) -> None:
        """Somebody looks at a picture of this job's. Never raises: the picture matters more."""
        moment = time.monotonic()
        if moment - self._noted.get(job_id, float("-inf")) < NOTED_EVERY_SECONDS:
            return
        if len(self._noted) >= MOST_JOBS:
            self._noted.clear()
        self._noted[job_id] = moment
        try:
            job = self._store.jobs.get(job_id)
            if job.project_id is not None and job.task_id is not None:
                self._store.tasks.opened(job.project_id, job.task_id)
        except UnknownJobError:
            return
        except ServiceError as error:
            log.info("an opening is not noted: %s", error)
