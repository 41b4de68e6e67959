"""Batch labelling: tasks that are pre-labelled; the results are delivered later."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from datetime import timedelta

from backend.engines import ChosenEngine
from backend.label_studio.incoming.payloads import Task
from backend.service.jobs import JobControl
from backend.service.requests import INSTRUCTION_KEY, compared_with, prelabel_request, rejected_request
from backend.store import Job, Project, Store
from backend.store.models import now
from backend.store.tasks import TaskKey
from label_config import LabelConfig
from trajseg.errors import TrajSegError

log = logging.getLogger("trajseg.backend")


class BatchLabelling:
    """Creates one job for each task of a batch. Each task is validated on its own.

    Args:
        retry_failed_seconds: a failed job runs again if its task is requested again after this long.
    """

    def __init__(self, store: Store, jobs: JobControl, retry_failed_seconds: float) -> None:
        self.store = store
        self.jobs = jobs
        self.retry_failed_seconds = retry_failed_seconds

    def label(
        self,
        project: Project,
        engine: ChosenEngine,
        config: LabelConfig,
        tasks: Sequence[Task],
        opened: Collection[TaskKey] = (),
    ) -> None:
        """Stores and queues the jobs of these tasks; tasks that lack something become rejected jobs.

        Args:
            opened: tasks that someone may have open.
        """
        requests = []
        for task in tasks:
            try:
                request = prelabel_request(project, engine, config, task, task.data.get(INSTRUCTION_KEY))
                requests.append(compared_with(request, engine.second) if engine.second else request)
            except TrajSegError as error:
                requests.append(rejected_request(project, engine, task, error, config))
        added = self.jobs.add(requests, opened)
        for (job, created), request, task in zip(added, requests, tasks, strict=True):
            if not created and not request.error:
                try:
                    self._repeat(job, task)
                except TrajSegError as error:
                    log.warning("job %s of task %s is not retried: %s", job.id, task.id, error)

    def reject(self, project: Project, engine: ChosenEngine | None, tasks: Sequence[Task], error: TrajSegError) -> None:
        """Stores each task as a rejected job with the same reason."""
        self.store.jobs.add_all([rejected_request(project, engine, task, error) for task in tasks])

    def _repeat(self, job: Job, task: Task) -> None:
        """Label Studio requests a prediction that it lacks, although the job is known."""
        if job.state in ("failed", "rejected"):
            ended = job.finished_at or job.created_at
            waited = now() - ended >= timedelta(seconds=self.retry_failed_seconds)
            # A task that lacked something is complete now: its request was accepted.
            if waited or job.rejection == "task":
                self.jobs.enqueue([self.store.jobs.retry(job.id)])
        elif job.state == "done" and task.id is not None:
            if any(prediction.model_version == job.model_version for prediction in task.predictions):
                return
            delivery = self.store.deliveries.of_job(job.id)
            if delivery is not None and (delivery.state != "pending" or delivery.attempts):
                # It was deleted there, or has not arrived yet: someone is waiting for it now.
                self.store.deliveries.send_again(job.id)
