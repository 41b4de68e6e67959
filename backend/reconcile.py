"""The reconciler: makes sure that unfinished work in the store gets done, whatever happened to the queue."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from backend.loop import Loop
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Job, Store
from backend.store.models import now
from trajseg.errors import QueueError

log = logging.getLogger("trajseg.reconcile")

Deliver = Callable[[], object]
Read = Callable[[], Sequence[Job]]
GRACE_SECONDS = 10.0
"""Younger jobs are left to the request that enqueues them."""
SETTLE_SECONDS = 0.2
"""More than a worker needs between taking a job from the queue and recording that in the store."""
ROWS_AT_ONCE = 500
RETENTION_SECONDS = 3600.0
"""Interval between searches for finished jobs that can be deleted."""


@dataclass(frozen=True)
class Reconciled:
    """What one round did.

    Attributes:
        troubled: jobs for which an unexpected error occurred; the round continued without them.
    """

    enqueued: int = 0
    lost: int = 0
    given_up: int = 0
    troubled: int = 0


def reconcile(store: Store, queue: JobQueue, settings: Settings, grace_seconds: float = GRACE_SECONDS) -> Reconciled:
    """One round: queues lost runs again, and enqueues jobs that are only in the store.

    A job whose worker died `settings.max_runs` times is failed, since it would kill the next worker too. Jobs are
    handled one by one: an error in one is logged and counted, and the job is skipped. Safe to run in several processes.

    Args:
        grace_seconds: younger jobs are left alone.
    """
    did: Counter[str] = Counter()

    def handle(job: Job, what: Callable[[Job], list[str]]) -> None:
        try:
            did.update(what(job))
        except QueueError:
            raise
        except Exception:
            log.exception("job %s is skipped in this round", job.id)
            did["troubled"] += 1

    try:
        queue.clean()
        store.runs.renew_future_leases()
        for job in store.backlog.lost(settings.stale_after_seconds):
            handle(job, lambda job: _recover(store, queue, settings, job))
        for job in _missing(store, queue, grace_seconds):
            handle(job, lambda job: _enqueue(queue, job))
    except QueueError as error:
        log.warning("%s", error)
    done = Reconciled(**did)
    if done != Reconciled():
        log.info("%s", done)
    return done


def _recover(store: Store, queue: JobQueue, settings: Settings, job: Job) -> list[str]:
    """Queues a running job without a heartbeat again, or fails it if its worker died too often."""
    if not store.runs.is_lost(job.id, job.run_token, settings.stale_after_seconds):
        return []
    if job.runs >= settings.max_runs:
        store.jobs.give_up(
            job.id,
            f"The worker died {job.runs} times while it ran this job.",
            "See the worker's log; the video may need more memory than there is. POST /jobs/<id>/retry runs it again.",
        )
        return ["given_up"]
    if not store.runs.requeue_lost(job.id, job.run_token):
        return []
    queue.enqueue(job)
    return ["lost", "enqueued"]


def _missing(store: Store, queue: JobQueue, grace_seconds: float) -> Iterator[Job]:
    """Queued jobs of the store that are missing from their queue.

    Each round compares ids only, so a long queue costs almost nothing. The store is read first: a job that starts
    between the two reads looks missing for a moment, so missing jobs are checked twice.
    """
    if not _not_waiting(store, queue, grace_seconds):
        return
    time.sleep(SETTLE_SECONDS)
    missing = _not_waiting(store, queue, grace_seconds)
    for start in range(0, len(missing), ROWS_AT_ONCE):
        yield from store.backlog.still_queued(missing[start : start + ROWS_AT_ONCE])


def _not_waiting(store: Store, queue: JobQueue, grace_seconds: float) -> list[str]:
    queued = store.backlog.queued(now() - timedelta(seconds=grace_seconds))
    waiting = queue.waiting()
    return [job_id for job_id, name in queued if job_id not in waiting.get(name, ())]


def _enqueue(queue: JobQueue, job: Job) -> list[str]:
    if queue.has_started(job.id):
        return []
    queue.enqueue(job)
    return ["enqueued"]


class Reconciler:
    """Background loops of the backend that do not wait for each other, from `start` to `stop`.

    They requeue lost and forgotten jobs, make deliveries, read annotations and delete old jobs. If Label Studio hangs,
    deliveries and annotations wait, but the jobs do not.

    Args:
        deliver: makes the deliveries that are due; None: no deliveries.
        read: reads annotations and returns the jobs that follow; None: annotations are not read.
        retire: deletes finished jobs that are no longer needed; None: keeps them all.
    """

    def __init__(
        self,
        store: Store,
        queue: JobQueue,
        settings: Settings,
        deliver: Deliver | None = None,
        read: Read | None = None,
        retire: Callable[[], object] | None = None,
    ) -> None:
        self._queue = queue
        self._read = read
        self.troubled = 0
        self._jobs = Loop("reconciler", lambda: self._round(store, settings), settings.reconcile_seconds)
        self._loops = [self._jobs]
        self._annotations: Loop | None = None
        if deliver is not None:
            self._loops.append(Loop("deliveries", deliver, min(settings.reconcile_seconds, 5.0)))
        if retire is not None:
            self._loops.append(Loop("retention", retire, RETENTION_SECONDS))
        if read is not None:
            self._annotations = Loop("annotations", self._read_annotations, settings.reconcile_seconds)
            self._loops.append(self._annotations)

    @property
    def problems(self) -> dict[str, int]:
        """Failed rounds by loop; "jobs" counts jobs that a round had to skip."""
        return {"jobs": self.troubled, **{loop.name: loop.failures for loop in self._loops}}

    def start(self) -> None:
        """Starts, with a first round at once."""
        for loop in self._loops:
            loop.start()

    def wake(self) -> None:
        """Reads annotations at once."""
        if self._annotations is not None:
            self._annotations.wake()

    def stop(self) -> None:
        """Stops after the current rounds."""
        for loop in self._loops:
            loop.stop(0.0)
        for loop in self._loops:
            loop.stop()

    def _round(self, store: Store, settings: Settings) -> None:
        self.troubled += reconcile(store, self._queue, settings).troubled

    def _read_annotations(self) -> None:
        assert self._read is not None
        for job in self._read():
            try:
                self._queue.enqueue(job)
            except QueueError as error:
                log.warning("job %s waits in the store: %s", job.id, error)
