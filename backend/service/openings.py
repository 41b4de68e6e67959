"""Openings: Label Studio does not say who has a task open, so this is inferred from requests by its page."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from backend.label_studio.incoming.payloads import Task
from backend.store import Project, Store, UnknownJobError
from backend.store.tasks import TaskKey
from trajseg.errors import ServiceError

log = logging.getLogger("trajseg.backend")

NOTED_EVERY_SECONDS = 5.0
"""A page requests all its pictures at once, and Label Studio repeats requests; record a task once in this time."""
MOST_KEPT = 10_000
"""Most jobs, and most tasks, kept in memory."""


class Openings:
    """Records that a task is open. Safe to share between threads: at worst something is recorded twice."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._noted: dict[str | TaskKey, float] = {}

    def note(self, project: Project, tasks: Sequence[Task]) -> None:
        """Someone has these tasks open: their pictures keep their places, and their predictions stay."""
        for project_id, task_id in self.due(project, tasks):
            self._store.tasks.opened(project_id, task_id)
            self.noted((project_id, task_id))

    def due(self, project: Project, tasks: Sequence[Task]) -> list[TaskKey]:
        """Those of these open tasks whose opening was not recorded a moment ago."""
        keys = [(project.id, task.id) for task in tasks if task.id is not None]
        return [key for key in keys if self._is_due(key)]

    def noted(self, *keys: str | TaskKey) -> None:
        """The openings of these jobs or tasks have been stored."""
        if len(self._noted) >= MOST_KEPT:
            self._noted.clear()
        self._noted.update(dict.fromkeys(keys, time.monotonic()))

    def _is_due(self, key: str | TaskKey) -> bool:
        return time.monotonic() - self._noted.get(key, float("-inf")) >= NOTED_EVERY_SECONDS

    def seen(self, job_id: str) -> None:
        """Someone is looking at a picture of this job. Never raises: serving the picture matters more."""
        if not self._is_due(job_id):
            return
        self.noted(job_id)
        try:
            job = self._store.jobs.get(job_id)
            if job.project_id is not None and job.task_id is not None:
                self._store.tasks.opened(job.project_id, job.task_id)
        except UnknownJobError:
            return
        except ServiceError as error:
            log.info("an opening was not recorded: %s", error)
