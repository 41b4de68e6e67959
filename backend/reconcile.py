"""The reconciler: what the store says is unfinished gets done, whatever became of the queue."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
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
    try:
        queue.clean()
        store.renew_future_leases()
        for job in store.unfinished(settings.stale_after_seconds):
            try:
                did.update(_handle(store, queue, settings, job, grace_seconds))
            except QueueError:
                raise
            except Exception:
                log.exception("job %s is passed over in this round", job.id)
                did["troubled"] += 1
    except QueueError as error:
        log.warning("%s", error)
    done = Reconciled(**did)
    if done != Reconciled():
        log.info("%s", done)
    return done


def _handle(store: Store, queue: JobQueue, settings: Settings, job: Job, grace_seconds: float) -> list[str]:
    if job.state == "running":
        if not store.is_lost(job.id, job.run_token, settings.stale_after_seconds):
            return []
        if job.runs >= settings.max_runs:
            store.give_up(
                job.id,
                f"The worker died {job.runs} times while it ran this job.",
                "See the worker's log; the video may need more memory than there is. "
                "POST /jobs/<id>/retry runs it again.",
            )
            return ["given_up"]
        if not store.requeue_lost(job.id, job.run_token):
            return []
        queue.enqueue(job)
        return ["lost", "enqueued"]
    if job.not_before is not None and job.not_before > now():
        return []
    if job.created_at < now() - timedelta(seconds=grace_seconds) and not queue.holds(job.id):
        queue.enqueue(job)
        return ["enqueued"]
    return []


class Reconciler:
    """Three loops beside the backend that do not wait for each other, from `start` to `stop`.

    Lost and forgotten jobs go back into the queue; deliveries are made; annotations are read. A Label Studio that
    hangs holds up the last two, and neither holds up the first.

    Args:
        deliver: makes what deliveries are due; None leaves them alone.
        read: reads annotations and returns the jobs that they ask for; None leaves annotations alone.
    """

    def __init__(
        self,
        store: Store,
        queue: JobQueue,
        settings: Settings,
        deliver: Deliver | None = None,
        read: Read | None = None,
    ) -> None:
        self._queue = queue
        self._read = read
        self.troubled = 0
        self._jobs = Loop("reconciler", lambda: self._round(store, settings), settings.reconcile_seconds)
        self._loops = [self._jobs]
        self._annotations: Loop | None = None
        if deliver is not None:
            self._loops.append(Loop("deliveries", deliver, min(settings.reconcile_seconds, 5.0)))
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
