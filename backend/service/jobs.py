"""Operations on jobs by persons or requests: queue, cancel, retry, train."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from typing import Any

from backend.engines import OfferedEngines
from backend.queue import JobQueue
from backend.service.combining import Combiner
from backend.service.training import request_training
from backend.store import Job, JobRequest, Project, Store
from backend.store.params import FinetuneParams
from backend.store.reports import Wanted
from backend.store.tasks import TaskKey
from trajseg.errors import QueueError, TaskError
from trajseg.words import counted

log = logging.getLogger("trajseg.backend")

Batch = tuple[Sequence[JobRequest], Collection[TaskKey]]
ENQUEUED_AT_ONCE = 25
"""Above this number, jobs are queued in the background while the answer is sent."""


class JobControl:
    """Changes jobs in the store and in the queue. Safe to share between threads."""

    def __init__(self, store: Store, queue: JobQueue, engines: OfferedEngines) -> None:
        self.store = store
        self.queue = queue
        self.engines = engines
        self._combined = Combiner(self._add_batches)
        self._background = ThreadPoolExecutor(1, thread_name_prefix="queue")
        self._closing = threading.Event()

    def close(self) -> None:
        """Ends work in the background; the reconciler queues what is left, and workers skip cancelled jobs."""
        self._closing.set()
        self._background.shutdown(wait=True, cancel_futures=True)

    def add(self, requests: Sequence[JobRequest], opened: Collection[TaskKey] = ()) -> list[tuple[Job, bool]]:
        """Stores and queues one job per request, in order; returns each job and whether it is new.

        Requests that arrive at the same moment share a transaction.

        Args:
            opened: tasks that someone has open now; recorded in the same transaction.
        """
        return self._combined((requests, opened))

    def _add_batches(self, batches: Sequence[Batch]) -> list[list[tuple[Job, bool]]]:
        requests = [request for batch, _ in batches for request in batch]
        added = self.store.jobs.add_all(requests, {key for _, opened in batches for key in opened})
        self.enqueue_many([job for job, created in added if created and job.state == "queued"], new=True)
        rest = iter(added)
        return [list(islice(rest, len(batch))) for batch, _ in batches]

    def enqueue(self, jobs: Sequence[Job], new: bool = False) -> bool:
        """Queues jobs of the store; False if the queue is down or closed: the reconciler does it later."""
        try:
            if new:
                self.queue.enqueue_new(jobs)
            else:
                for job in jobs:
                    if self._closing.is_set():
                        return False
                    self.queue.enqueue(job)
        except QueueError as error:
            log.warning("%s stored, but not queued yet: %s", counted(len(jobs), "job"), error)
            return False
        return True

    def enqueue_many(self, jobs: Sequence[Job], new: bool = False) -> None:
        """Like `enqueue`, but in the background if there are many jobs."""
        if len(jobs) > ENQUEUED_AT_ONCE:
            self._later(self.enqueue, jobs, new)
        elif jobs:
            self.enqueue(jobs, new)

    def _later(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Does something in the background, in order; nothing once closed."""
        try:
            self._background.submit(work, *arguments).add_done_callback(_log_error)
        except RuntimeError:
            log.info("the backend closes; the reconciler of the next one goes on")

    def cancel(self, job_id: str) -> Job:
        """Cancels a job: a waiting one leaves the queue, a running one stops at its next frame."""
        job = self.store.jobs.cancel(job_id)
        try:
            self.queue.remove(job_id)
        except QueueError as error:
            # Workers check the store before they start a job.
            log.warning("job %s stays in the queue: %s", job_id, error)
        return job

    def cancel_all(self, wanted: Wanted, until: datetime) -> list[str]:
        """Cancels all selected unfinished jobs created by then; returns their ids."""
        return self._removed(self.store.selections.cancel(wanted, until))

    def cancel_waiting(self, job_ids: Sequence[str]) -> list[str]:
        """Cancels those of these jobs that are still queued; returns their ids."""
        return self._removed(self.store.selections.cancel_waiting(job_ids))

    def _removed(self, job_ids: list[str]) -> list[str]:
        if job_ids:
            self._later(self._remove, job_ids)
        return job_ids

    def _remove(self, job_ids: Sequence[str]) -> None:
        try:
            for job_id in job_ids:
                if self._closing.is_set():
                    return
                self.queue.remove(job_id)
        except QueueError as error:
            # Workers check the store before they start a job.
            log.warning("cancelled jobs stay in the queue: %s", error)

    def retry_all(self, wanted: Wanted, until: datetime) -> list[Job]:
        """Retries all selected jobs that failed or were cancelled and were created by then; returns them."""
        jobs = self.store.selections.queue_again(wanted, until)
        self.enqueue_many(jobs)
        return jobs

    def retry(self, job_id: str) -> Job:
        """Retries a finished job; if only the delivery of a done job failed, retries only the delivery.

        Raises UnknownJobError, or TaskError for a rejected job: its task or instruction has to change.
        """
        job = self.store.jobs.get(job_id)
        if job.state == "rejected":
            raise TaskError(job.error, job.remedy)
        delivery = self.store.deliveries.of_job(job_id)
        if job.state == "done" and delivery is not None and delivery.state in ("failed", "dropped"):
            self.store.deliveries.send_again(job_id)
            return job
        job = self.store.jobs.retry(job_id)
        self.enqueue([job])
        return job

    def train(self, project: Project, params: FinetuneParams | None = None) -> tuple[Job, bool]:
        """The project's queued or running training, or else a new one; also returns whether it is new."""
        job, created = request_training(self.store, project, self.engines, params)
        if created:
            self.enqueue([job], new=True)
        return job, created


def _log_error(work: Future[Any]) -> None:
    if not work.cancelled() and (error := work.exception()) is not None:
        log.error("background work failed", exc_info=error)
