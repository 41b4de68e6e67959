"""The queue: jobs handed to workers through RQ on Redis or Valkey. Transport only; the store is the truth.

Write access to Redis must not be enough to run code in a worker or in the backend. So a job in Redis is JSON and can
only make a worker run one job of the store; see EntryJob.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.exceptions import DeserializationError, DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.executions import ExecutionRegistry
from rq.job import UNEVALUATED, JobStatus
from rq.job import Job as RqJob
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from backend.settings import HEARTBEAT_SECONDS
from backend.store import Job
from backend.store.kinds import QUEUES
from trajseg.errors import InputError, QueueError

log = logging.getLogger("trajseg.queue")

RUN = "worker.run.run"
"""The only function a worker calls, with the job's id; a name, since the backend never imports the worker."""
CONNECT_SECONDS = 0.5
ANSWER_SECONDS = 2.0
QUIET_SECONDS = 3.0
"""After a failure, Redis is not asked for this long, so that requests do not each wait for it."""
WORKERS = "trajseg:workers"
"""Sorted set of worker names by last heartbeat."""
FIGURES = "trajseg:figures"
"""Hash of the workers' counters."""
GPU = "trajseg:gpu"
"""Prefix of the key of a worker's GPU memory."""
FORGOTTEN_SECONDS = 3600
"""A worker without a heartbeat for this long is removed from the set."""
KEPT_SECONDS = 3600
"""How long Redis remembers a crashed run."""


class RefusedJobError(DeserializationError):
    """A job in Redis that asks for something other than one run of a job of the store."""


class EntryJob(RqJob):
    """An RQ job that can only call `RUN(job_id)`. Backend and workers read all jobs as this class.

    Plain RQ unpickles a job's data, and imports and calls whatever function and callbacks it names.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Some of RQ's own calls omit the serializer, and its default is pickle.
        self.serializer = JSONSerializer

    def restore(self, raw_data: Any) -> None:
        try:
            super().restore(raw_data)
        except NoSuchJobError:
            raise
        except Exception as error:
            # RQ's worker skips a missing job, but exits on any other error.
            log.error("job %s in Redis is refused: its record cannot be read (%s)", self.id, error)
            raise NoSuchJobError(f"Job {self.id} cannot be read.") from error
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks: list[Any] = []

    def cleanup(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().cleanup(*args, **kwargs)
        except InvalidJobOperation:
            # RQ would treat this as a failure of the job, although its result is in the store.
            log.info("Redis was emptied while job %s ran", self.id)

    def _deserialize_data(self) -> None:
        super()._deserialize_data()
        call: Any = vars(self)
        if [call[f"_{part}"] for part in ("func_name", "instance", "args", "kwargs")] != [RUN, None, [self.id], {}]:
            name, call["_func_name"] = call["_func_name"], UNEVALUATED
            raise RefusedJobError(f"it names {str(name)[:80]!r}, not {RUN}({self.id!r})")


class JobQueue:
    """Puts jobs of the store into the queues that workers empty: interactive, prelabel, finetune.

    Args:
        redis_url: `redis://`, `rediss://` or `unix://`.
        job_timeout_seconds: RQ ends longer runs.

    All methods raise QueueError, quickly, if Redis does not answer. Safe to share between threads.
    """

    def __init__(self, redis_url: str, job_timeout_seconds: int = 4 * 3600) -> None:
        try:
            self.connection = Redis.from_url(
                redis_url,
                socket_connect_timeout=CONNECT_SECONDS,
                socket_timeout=ANSWER_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            # The error's text may quote the password.
            raise InputError(
                "REDIS_URL is not a Redis URL.",
                "Write redis://host:6379/0, with special letters of a password percent-encoded.",
            ) from error
        self.job_timeout_seconds = job_timeout_seconds
        self._queues = {
            name: Queue(name, self.connection, job_class=EntryJob, serializer=JSONSerializer) for name in QUEUES
        }
        self._lock = threading.Lock()
        self._quiet_until = 0.0

    def enqueue(self, job: Job, at_front: bool = False) -> None:
        """Queues a job unless it is already queued; one waiting in another queue is moved.

        Args:
            at_front: ahead of the others in its queue; for a job that was started and preempted.
        """
        with self._asking():
            held = self._held(job.id)
            if held is not None:
                waits = held.get_status(refresh=False) == JobStatus.QUEUED and held.origin == job.queue
                # Its record may outlive its place in the queue.
                if waits and self._queues[job.queue].get_job_position(job.id) is not None:
                    return
                _delete(held)
            else:
                # A worker whose Redis was emptied during a job leaves a partial record, which RQ takes for a queued
                # job.
                self.connection.delete(EntryJob.key_for(job.id))
            try:
                self._queues[job.queue].enqueue_call(RUN, **self._terms(job), unique=True, at_front=at_front)
            except DuplicateJobError:
                # Another process queued it between our read and our write.
                return

    def enqueue_new(self, jobs: Sequence[Job]) -> None:
        """Queues jobs that were never queued before, in one round trip per queue."""
        with self._asking():
            for name, queue in self._queues.items():
                mine = [job for job in jobs if job.queue == name]
                if mine:
                    queue.enqueue_many(Queue.prepare_data(RUN, **self._terms(job)) for job in mine)

    def _terms(self, job: Job) -> dict[str, Any]:
        """How RQ should store and run a job."""
        return {
            "args": (job.id,),
            "timeout": self.job_timeout_seconds,
            "result_ttl": 0,
            "failure_ttl": KEPT_SECONDS,
            "description": f"{job.kind} {job.id}",
            "job_id": job.id,
        }

    def waiting(self) -> dict[str, set[str]]:
        """The ids of the waiting jobs, by queue; one round trip, however many there are."""
        with self._asking(), self.connection.pipeline(transaction=False) as pipeline:
            for queue in self._queues.values():
                pipeline.lrange(queue.key, 0, -1)
            lists = pipeline.execute()
        return {name: {job_id.decode() for job_id in ids} for name, ids in zip(self._queues, lists, strict=True)}

    def holds(self, job_id: str) -> bool:
        """Whether a job is waiting in a queue or held by a live worker."""
        with self._asking():
            held = self._held(job_id)
            if held is None:
                return False
            if held.get_status(refresh=False) == JobStatus.QUEUED:
                # Its record may outlive the queue, or the other way round.
                return self._queues[held.origin].get_job_position(job_id) is not None
            return self._is_started(held)

    def has_started(self, job_id: str) -> bool:
        """Whether a live worker holds a job."""
        with self._asking():
            held = self._held(job_id)
            return held is not None and self._is_started(held)

    def remove(self, job_id: str) -> None:
        """Removes a waiting job; a running one sees the cancellation in the store."""
        with self._asking():
            held = self._held(job_id)
            if held is not None and held.get_status(refresh=False) != JobStatus.STARTED:
                _delete(held)

    def clean(self) -> None:
        """Makes RQ notice runs whose worker died; an idle worker does not do so itself."""
        with self._asking():
            for name in QUEUES:
                try:
                    self._started(name).cleanup()
                except RedisError:
                    raise
                except Exception:
                    # RQ fails on a single expired record; the store finds the lost jobs anyway.
                    log.warning("RQ cannot clean the queue %s", name, exc_info=True)

    def depths(self) -> dict[str, int]:
        """The number of waiting jobs in each queue."""
        with self._asking():
            return {name: queue.count for name, queue in self._queues.items()}

    def beat(
        self, name: str, figures: Mapping[str, float] = MappingProxyType({}), gpu: tuple[int, int] | None = None
    ) -> None:
        """Records a worker's heartbeat, on Redis's clock.

        Args:
            figures: added to the figures of all workers, see `figures`.
            gpu: bytes of its GPU's memory in use, and in total.
        """
        with self._asking():
            moment: Any = self.connection.time()
            with self.connection.pipeline() as pipeline:
                pipeline.zadd(WORKERS, {name: moment[0]})
                for figure, amount in figures.items():
                    pipeline.hincrbyfloat(FIGURES, figure, amount)
                if gpu is not None:
                    pipeline.set(f"{GPU}:{name}", f"{gpu[0]} {gpu[1]}", ex=int(4 * HEARTBEAT_SECONDS))
                pipeline.zremrangebyscore(WORKERS, 0, moment[0] - FORGOTTEN_SECONDS)
                pipeline.execute()

    def figures(self) -> dict[tuple[str, str, str], float]:
        """The workers' counters since Redis was emptied, by (kind, "seconds" or "runs", stage)."""
        with self._asking():
            held: Any = self.connection.hgetall(FIGURES)
        figures = {}
        for name, amount in held.items():
            with suppress(ValueError):
                kind, unit, stage = name.decode(errors="replace").split(" ", 2)
                figures[kind, unit, stage] = float(amount)
        return figures

    def gpus(self) -> dict[str, tuple[int, int]]:
        """Bytes of GPU memory in use and in total, by the name of each worker with a GPU."""
        with self._asking():
            moment: Any = self.connection.time()
            names: Any = self.connection.zrangebyscore(WORKERS, moment[0] - 3 * HEARTBEAT_SECONDS, "+inf")
            held: Any = self.connection.mget([f"{GPU}:{name.decode()}" for name in names]) if names else []
        gpus = {}
        for name, figures in zip(names, held, strict=True):
            with suppress(ValueError):
                used, total = (figures or b"").split()
                gpus[name.decode()] = int(used), int(total)
        return gpus

    def leave(self, name: str) -> None:
        """The worker of this name has ended."""
        with self._asking():
            self.connection.zrem(WORKERS, name)

    def workers(self) -> int:
        """The number of live workers: those with a heartbeat within three periods. Killed ones drop out."""
        with self._asking():
            moment: Any = self.connection.time()
            return int(self.connection.zcount(WORKERS, moment[0] - 3 * HEARTBEAT_SECONDS, "+inf"))

    def ping(self) -> None:
        """Raises QueueError when Redis does not answer."""
        with self._asking():
            self.connection.ping()

    def close(self) -> None:
        """Closes all connections."""
        self.connection.close()

    def _held(self, job_id: str) -> EntryJob | None:
        try:
            return EntryJob.fetch(job_id, connection=self.connection, serializer=JSONSerializer)  # type: ignore[return-value]
        except NoSuchJobError:
            return None

    def _is_started(self, held: EntryJob) -> bool:
        return held.get_status(refresh=False) == JobStatus.STARTED and held in self._started(held.origin)

    def _started(self, name: str) -> StartedJobRegistry:
        return StartedJobRegistry(queue=self._queues[name], job_class=EntryJob, serializer=JSONSerializer)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        remedy = "Start `trajseg serve`, or Redis, or check REDIS_URL. Jobs are kept in the store and queued later."
        with self._lock:
            if time.monotonic() < self._quiet_until:
                raise QueueError("The queue cannot be reached.", remedy)
        try:
            yield
        except RedisError as error:
            with self._lock:
                self._quiet_until = time.monotonic() + QUIET_SECONDS
            raise QueueError(f"The queue cannot be reached ({type(error).__name__}: {error}).", remedy) from error


def _delete(held: EntryJob) -> None:
    """Deletes a job's record in Redis, even if RQ can no longer find the record of one of its runs."""
    try:
        held.delete()
    except ValueError as error:
        log.warning("job %s in Redis: %s; the rest of its runs is deleted", held.id, error)
        held.connection.delete(ExecutionRegistry(job_id=held.id, connection=held.connection).key)
        held.delete()
