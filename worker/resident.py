"""The resident worker: one process that loads the engine once and then does one job after another.

Signals:

* SIGTERM or SIGINT: warm shutdown. An idle worker ends at once; a busy one finishes its job first.
* The same again, a second or more later: cold shutdown. The job is left and given back to the queue.
* SIGKILL: the job stays "running" in the store without heartbeat, and the reconciler queues it again.

A queue server that goes away does not end the worker: it tries again until the server is back.
"""

from __future__ import annotations

import contextlib
import logging
import time

import redis
from rq import Queue, SimpleWorker
from rq.exceptions import DeserializationError
from rq.serializers import JSONSerializer

from backend.queue import EntryJob
from backend.settings import Settings
from backend.store.kinds import QUEUES
from trajseg.errors import QueueError
from worker import run as jobs

log = logging.getLogger("trajseg.worker")

DELIVERY_SECONDS = 5.0
"""How long a stopping worker waits for the deliveries of the jobs it has just done."""
FIRST_CONTACT_SECONDS = 60.0
"""How long a starting worker waits for Redis, which may be starting beside it."""


class ResidentWorker(SimpleWorker):  # type: ignore[misc]
    """RQ's worker without a process for each job, so that the engine stays loaded."""

    def execute_job(self, job: EntryJob, queue: Queue) -> None:
        try:
            _ = job.func_name
        except DeserializationError as error:
            # RQ files it under the failed jobs; it is never called.
            log.error("job %s in the queue %s is refused: %s", job.id, queue.name, error or "it is not JSON")
        super().execute_job(job, queue)

    def set_shutdown_requested_date(self) -> None:
        # Runs inside a signal handler, in the middle of a job: it must not fail because Redis is gone.
        with contextlib.suppress(redis.RedisError):
            super().set_shutdown_requested_date()

    def teardown(self) -> None:
        with contextlib.suppress(redis.RedisError):
            super().teardown()


def resident_worker(connection: redis.Redis) -> ResidentWorker:
    """A worker on all queues that runs nothing but jobs of the store."""
    return ResidentWorker(list(QUEUES), connection=connection, job_class=EntryJob, serializer=JSONSerializer)


def work(settings: Settings, burst: bool = False) -> None:
    """Loads the engine, then does jobs until a signal ends it; with `burst` until the queues are empty.

    Raises CheckpointError when the engine cannot be loaded, QueueError when Redis cannot be reached.
    """
    connection = _connection(settings)
    started = time.monotonic()
    log.info("loading %s", settings.model)
    resident = jobs.Resident.load(settings)
    jobs.keep(resident)
    log.info("%s is loaded (%.0f s)", resident.engine.spec.model_version, time.monotonic() - started)
    if resident.engine.spec.model_version != settings.model_version():
        log.warning(
            "the engine calls itself %s but /setup answers %s: Label Studio will not show its predictions",
            resident.engine.spec.model_version,
            settings.model_version(),
        )
    try:
        resident_worker(connection).work(burst=burst, logging_level="WARNING")
    finally:
        jobs.keep(None)
        resident.hand.finish(DELIVERY_SECONDS)
        resident.store.close()


def _connection(settings: Settings) -> redis.Redis:
    """A connection that answered once."""
    connection = redis.Redis.from_url(settings.redis_url)
    deadline = time.monotonic() + FIRST_CONTACT_SECONDS
    while True:
        try:
            connection.ping()
            return connection
        except redis.RedisError as error:
            if time.monotonic() > deadline or isinstance(error, redis.AuthenticationError):
                raise QueueError(
                    f"Redis cannot be reached: {error}.", "Start Redis or Valkey, or fix REDIS_URL."
                ) from error
            log.warning("waiting for Redis: %s", error)
        time.sleep(2.0)
