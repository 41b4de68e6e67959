"""The reconciler: what the store says is unfinished gets done, whatever became of the queue."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Delivery, Job, Store
from backend.store.models import now
from trajseg.errors import QueueError

log = logging.getLogger("trajseg.reconcile")

Deliver = Callable[[Delivery], object]
Read = Callable[[], Sequence[Job]]
GRACE_SECONDS = 10.0
"""What is younger is left to who has just made it: the request that enqueues, the worker that delivers."""


@dataclass(frozen=True)
class Reconciled:
    """What one round did."""

    enqueued: int = 0
    lost: int = 0
    given_up: int = 0
    delivered: int = 0
    corrected: int = 0


def reconcile(
    store: Store,
    queue: JobQueue,
    settings: Settings,
    deliver: Deliver | None = None,
    grace_seconds: float = GRACE_SECONDS,
    read: Read | None = None,
) -> Reconciled:
    """One round: annotations are read, lost runs queued again, what waits in the store alone is enqueued,
    deliveries are made.

    A job whose worker died `settings.max_runs` times is failed, since the next one would die of it too.
    Safe to run in several processes at once.

    Args:
        deliver: makes one delivery and notes in the store how it went; None leaves deliveries alone.
        grace_seconds: younger jobs and deliveries are left alone.
        read: reads annotations and returns the jobs that they ask for; None leaves annotations alone.
    """
    enqueued = lost = given_up = 0
    corrected = read() if read is not None else []
    try:
        for job in corrected:
            queue.enqueue(job)
        queue.clean()
        for job in store.unfinished(settings.stale_after_seconds):
            if job.state == "running":
                if job.runs >= settings.max_runs:
                    store.give_up(
                        job.id,
                        f"The worker died {job.runs} times while it ran this job.",
                        "See the worker's log; the video may need more memory than there is. "
                        "POST /jobs/<id>/retry runs it again.",
                    )
                    given_up += 1
                    continue
                if not store.requeue_lost(job.id, job.run_token):
                    continue
                lost += 1
                queue.enqueue(job)
                enqueued += 1
            elif job.created_at < now() - timedelta(seconds=grace_seconds) and not queue.holds(job.id):
                queue.enqueue(job)
                enqueued += 1
    except QueueError as error:
        log.warning("%s", error)
    delivered = 0
    if deliver is not None:
        for delivery in store.due_deliveries(now() - timedelta(seconds=grace_seconds)):
            if store.claim_delivery(delivery.id):
                deliver(delivery)
                delivered += 1
    done = Reconciled(enqueued, lost, given_up, delivered, len(corrected))
    if done != Reconciled():
        log.info("%s", done)
    return done


class Reconciler:
    """Reconciles every `settings.reconcile_seconds` in a thread of its own, from `start` to `stop`."""

    def __init__(
        self,
        store: Store,
        queue: JobQueue,
        settings: Settings,
        deliver: Deliver | None = None,
        read: Read | None = None,
    ) -> None:
        self._round = lambda: reconcile(store, queue, settings, deliver, read=read)
        self._seconds = settings.reconcile_seconds
        self._stopped = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin, with a first round at once."""
        self._thread.start()

    def wake(self) -> None:
        """Have the next round at once."""
        self._woken.set()

    def stop(self) -> None:
        """End after the round that is under way."""
        self._stopped.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._woken.clear()
            try:
                self._round()
            except Exception:
                # Whatever it was, the next round must come.
                log.exception("a round failed")
            self._woken.wait(self._seconds)
