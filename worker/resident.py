"""The resident worker: one process that loads the engine once and then runs one job after another.

Signals:

* SIGTERM: warm shutdown. An idle worker exits at once; a busy one finishes its job first, except that a training saves
  its state and returns to the queue.
* A second SIGTERM, a second or more later, or SIGINT (Ctrl-C): cold shutdown. The job returns to the queue at once, and
  its finished frames are kept for the next run.
* SIGKILL: the job stays "running" in the store without a heartbeat, and the reconciler queues it again.

A run that was asked to stop does not count as a death of its worker, even if it is killed afterwards.

The worker survives a queue server that is down, hangs, restarts or is emptied, and continues when it is back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any
from uuid import uuid4

import redis
from rq import Queue, SimpleWorker
from rq.exceptions import DeserializationError, StopRequested
from rq.serializers import JSONSerializer
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_fixed

from backend.queue import EntryJob, JobQueue
from backend.settings import HEARTBEAT_SECONDS, Settings
from backend.store.kinds import QUEUES
from trajseg.errors import QueueError, TrajSegError
from trajseg.leaving import leaves_on_interrupt
from worker import run as jobs
from worker.figures import StageTally, gpu_memory
from worker.state import WorkerState

log = logging.getLogger("trajseg.worker")

DELIVERY_SECONDS = 5.0
"""How long a stopping worker waits for the deliveries of its last jobs."""
HASTE_SECONDS = 0.5
"""The same after a signal: the backend makes the remaining deliveries."""
STEADY_SECONDS = 60.0
"""After this long without errors, back-off starts again with the shortest pause."""
FIRST_CONTACT_SECONDS = 60.0
"""How long a starting worker waits for Redis, which may still be starting."""


QUEUE_WAIT_SECONDS = 5.0
"""Longest pause before Redis is tried again."""
SHARE_SECONDS = 60.0
"""How long interactive jobs may keep a worker busy before a prelabel job gets a turn."""
WORKER_TTL_SECONDS = 30
"""RQ waits 15 s less than this for a job, and 10 s longer than that for an answer from a hanging Redis."""


class ResidentWorker(SimpleWorker):
    """RQ's worker without a process per job, so that the engine stays loaded.

    Attributes:
        stopping: set by the first signal that asks the worker to exit.
        queue_again: called after each job, to queue preempted jobs again.
        emptied: the queues were empty, so a burst is over; RQ ends its loop in the same way on errors.
    """

    max_connection_wait_time = QUEUE_WAIT_SECONDS

    def __init__(
        self,
        *args: Any,
        stopping: threading.Event | None = None,
        queue_again: Callable[[], None] = lambda: None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.stopping = stopping or threading.Event()
        self.queue_again = queue_again
        self.emptied = False
        self._at_work = False
        self._first = list(self._ordered_queues)
        self._busy = 0.0

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopping.set()
        super().request_stop(signum, frame)
        if signum == signal.SIGINT and self._at_work:
            raise SystemExit

    def dequeue_job_and_maintain_ttl(self, *args: Any, **kwargs: Any) -> tuple[EntryJob, Queue] | None:
        self._ordered_queues = self._order()
        found: tuple[EntryJob, Queue] | None = super().dequeue_job_and_maintain_ttl(*args, **kwargs)  # type: ignore[assignment]
        self.emptied = found is None
        return found

    def _order(self) -> list[Queue]:
        """The queues in the order in which they are searched for the next job.

        The first queue has priority. After SHARE_SECONDS of its jobs the second one gets a turn; otherwise it would
        starve while people keep the first one full.
        """
        if self._busy < SHARE_SECONDS:
            return self._first
        return [self._first[1], self._first[0], *self._first[2:]]

    def subscribe(self) -> None:
        # Commands come by signals and through the store, never through Redis.
        pass

    def execute_job(self, job: EntryJob, queue: Queue) -> None:  # type: ignore[override]
        try:
            _ = job.func_name
        except DeserializationError as error:
            # RQ records it as a failed job; it is never executed.
            log.error("job %s in the queue %s is refused: %s", job.id, queue.name, error or "it is not JSON")
        started = time.monotonic()
        self._at_work = True
        try:
            super().execute_job(job, queue)
        finally:
            self._at_work = False
        self._busy = self._busy + time.monotonic() - started if queue.name == self._first[0].name else 0.0
        # Not from within the job: RQ deletes the record of a job that has just ended.
        self.queue_again()

    def set_shutdown_requested_date(self) -> None:
        # Runs inside a signal handler, in the middle of a job: it must not fail because Redis is down.
        with contextlib.suppress(redis.RedisError):
            super().set_shutdown_requested_date()

    def teardown(self) -> None:
        with contextlib.suppress(redis.RedisError):
            super().teardown()


def resident_worker(
    connection: redis.Redis,
    stopping: threading.Event | None = None,
    queue_again: Callable[[], None] = lambda: None,
) -> ResidentWorker:
    """A worker on all queues that only runs jobs of the store."""
    return ResidentWorker(
        list(QUEUES),
        connection=connection,
        job_class=EntryJob,
        serializer=JSONSerializer,
        worker_ttl=WORKER_TTL_SECONDS,
        stopping=stopping,
        queue_again=queue_again,
    )


def work(settings: Settings, burst: bool = False) -> bool:
    """Loads the engine, then runs jobs until a signal ends it; with `burst`, until the queues are empty.

    Returns whether a signal ended it; SystemExit propagates if that happened in the middle of a job.

    Raises CheckpointError if the engine cannot be loaded, QueueError if Redis cannot be reached.
    """
    connection = _connection(settings)
    started = time.monotonic()
    log.info("loading %s", settings.model)
    with leaves_on_interrupt():
        resident = WorkerState.load(settings)
    jobs.keep(resident)
    log.info("%s is loaded (%.0f s)", resident.engine.spec.model_version, time.monotonic() - started)
    if resident.engine.spec.model_version != settings.model_version():
        log.warning(
            "the engine calls itself %s but /setup answers %s: Label Studio will not show its predictions",
            resident.engine.spec.model_version,
            settings.model_version(),
        )
    pulse = Pulse(settings, resident.tally)
    pulse.start()
    try:
        _empty_queues(resident, connection, burst)
    finally:
        pulse.stop()
        jobs.keep(None)
        resident.hand.finish(HASTE_SECONDS if resident.stopping.is_set() else DELIVERY_SECONDS)
        resident.store.close()
    return resident.stopping.is_set()


def _empty_queues(resident: WorkerState, connection: redis.Redis, burst: bool) -> None:
    """Runs jobs until a signal arrives, or with `burst` until there are none, whatever happens to Redis meanwhile."""
    pause = 0.5
    while not resident.stopping.is_set():
        started, emptied = time.monotonic(), False
        try:
            # Even this constructor asks Redis for the worker's own address.
            worker = resident_worker(connection, resident.stopping, lambda: _queue_again(resident))
            worker.work(burst=burst, logging_level="WARNING")
            emptied = worker.emptied
        except redis.RedisError as error:
            log.warning("Redis does not answer: %s", error)
        except StopRequested:
            return
        if resident.stopping.is_set() or (burst and emptied):
            return
        pause = 0.5 if time.monotonic() - started > STEADY_SECONDS else min(pause * 2, QUEUE_WAIT_SECONDS)
        log.warning("Redis went down or lost its data; the worker continues in %.0f s", pause)
        try:
            resident.stopping.wait(pause)
        except StopRequested:
            return


def _queue_again(resident: WorkerState) -> None:
    """Puts preempted jobs at the front of their queues; if that fails, the reconciler queues them."""
    if not resident.preempted:
        return
    queue = JobQueue(resident.settings.redis_url, resident.settings.job_timeout_seconds)
    try:
        while resident.preempted:
            job = resident.store.jobs.get(resident.preempted.pop())
            if job.state == "queued":
                queue.enqueue(job, at_front=True)
    except TrajSegError as error:
        log.info("a preempted job will be queued later: %s", error)
    finally:
        resident.preempted.clear()
        queue.close()


class Pulse:
    """Tells Redis every few seconds that this worker is alive with its engine loaded; see JobQueue.workers."""

    def __init__(self, settings: Settings, tally: StageTally) -> None:
        self._queue = JobQueue(settings.redis_url)
        self._tally = tally
        self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Starts, with a first heartbeat at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stops, and deregisters the worker."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(QueueError):
            self._queue.leave(self._name)
        self._queue.close()

    def _run(self) -> None:
        while not self._over.is_set():
            taken = self._tally.take()
            try:
                self._queue.beat(self._name, taken, gpu_memory())
            except QueueError:
                # The worker itself reports that Redis is down.
                self._tally.put_back(taken)
            self._over.wait(HEARTBEAT_SECONDS)


def _connection(settings: Settings) -> redis.Redis:
    """A connection that has answered once."""
    # redis-py times out after 5 s by default: an idle worker would treat that as a broken connection, and pause.
    connection = redis.Redis.from_url(settings.redis_url, socket_timeout=WORKER_TTL_SECONDS - 5)
    again = Retrying(
        retry=retry_if_exception(_is_no_answer),
        stop=stop_after_delay(FIRST_CONTACT_SECONDS),
        wait=wait_fixed(2.0),
        before_sleep=_log_waiting,
        reraise=True,
    )
    try:
        again(connection.ping)
    except redis.RedisError as error:
        raise QueueError(f"Redis cannot be reached: {error}.", "Start Redis or Valkey, or fix REDIS_URL.") from error
    return connection


def _log_waiting(state: RetryCallState) -> None:
    log.warning("waiting for Redis: %s", state.outcome.exception() if state.outcome else "no answer")


def _is_no_answer(error: BaseException) -> bool:
    return isinstance(error, redis.RedisError) and not isinstance(error, redis.AuthenticationError)
