"""The reconciler: what the store says is unfinished gets done, whatever became of the queue."""

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
"""What is younger is left to the request that enqueues it."""
SETTLE_SECONDS = 0.2
"""A worker takes less from taking a job out of the queue to saying so in the store."""
ROWS_AT_ONCE = 500
RETENTION_SECONDS = 3600.0
"""How often finished jobs that nobody needs are looked for."""


@dataclass(frozen=True)
class Reconciled:
    """What one round did.

    Attributes:
        troubled: jobs that something unforeseen happened to; the round went on without them.
    """

    enqueued: int = 0
    lost: int = 0
    given_up: int = 0
    troubled: int = 0


def reconcile(store: Store, queue: JobQueue, settings: Settings, grace_seconds: float = GRACE_SECONDS) -> Reconciled:
    """One round: lost runs are queued again, and what waits in the store alone is enqueued.

    A job whose worker died `settings.max_runs` times is failed, since the next one would die of it too. Each job is
    handled by itself: one that makes trouble is logged, counted and passed over. Safe to run in several processes
    at once.

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
            log.exception("job %s is passed over in this round", job.id)
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
    """A running job without heartbeat goes back into the queue, or fails where its worker has died too often."""
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
    """Queued jobs of the store that do not wait in their queue.

    Only ids are compared in every round, so that a long queue costs next to nothing. The store is asked first: a job
    that begins between the two looks is missing for a moment, which is why the missing ones are looked at twice.
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
    """Loops beside the backend that do not wait for each other, from `start` to `stop`.

    Lost and forgotten jobs go back into the queue; deliveries are made; annotations are read; old jobs are deleted. A
    Label Studio that hangs holds up deliveries and annotations, and neither holds up the jobs.

    Args:
        deliver: makes what deliveries are due; None leaves them alone.
        read: reads annotations and returns the jobs that they ask for; None leaves annotations alone.
        retire: deletes finished jobs that nobody needs; None keeps them all.
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
        """By loop, how many turns failed; "jobs" counts jobs that a round had to pass over."""
        return {"jobs": self.troubled, **{loop.name: loop.failures for loop in self._loops}}

    def start(self) -> None:
        """Begin, with a first round at once."""
        for loop in self._loops:
            loop.start()

    def wake(self) -> None:
        """Read annotations at once."""
        if self._annotations is not None:
            self._annotations.wake()

    def stop(self) -> None:
        """End after the rounds that are under way."""
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
