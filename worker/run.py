"""RQ's entry point in the worker: starts a job, runs the work of its kind, and stores how it ended."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from rq.timeouts import JobTimeoutException
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from backend.addresses import shown_address
from backend.fetch import BusyServerError, FetchPolicy, fetched
from backend.label_studio.outgoing.delivery import connected
from backend.label_studio.outgoing.pictures import key_frame_path, shown_frames
from backend.label_studio.refusals import MissingError, is_transient, retry_after
from backend.logs import logged_job
from backend.private import private_folder
from backend.queue import JobQueue
from backend.settings import HEARTBEAT_SECONDS, load_settings
from backend.store import Delivery, Job, StaleRunError
from backend.store.kinds import KINDS
from backend.store.notes import JobNotes
from backend.store.params import JobParams
from trajseg.engines.base import Engine
from trajseg.errors import (
    CancelledError,
    InputError,
    InstructionError,
    LabelStudioError,
    QueueError,
    ServiceError,
    StoreError,
    TrajSegError,
    hidden_exit,
)
from trajseg.files import content_hash
from trajseg.pictures.frame_number import numbered
from trajseg.tracks import Result
from trajseg.video import Clip, DecoderLimits, guarded_clip, save_frame
from worker.kinds.base import JobContext, PreemptedError
from worker.kinds.registry import work_of
from worker.state import WorkerState
from worker.turn import Turn

log = logging.getLogger("trajseg.worker")

GIVE_BACK_SECONDS = 120.0
"""How long a worker tries to return a job while the store does not answer."""
LOOK_AROUND_SECONDS = 0.5
"""How soon a run notices that its worker was asked to stop: `docker stop` kills after 10 s."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 300.0
"""Back-off for a job whose video Label Studio does not serve."""
LOOK_SECONDS = 5.0
"""How long Label Studio may take to say whether a job's task still exists."""


_resident: WorkerState | None = None


def keep(resident: WorkerState | None) -> None:
    """Sets `resident` as the context of all further jobs in this process."""
    global _resident
    _resident = resident


def run(job_id: str) -> None:
    """RQ's entry point: starts the job, and ends it as done, failed, rejected or cancelled in the store.

    Raises nothing that the store can record. If the store is down, a running job is left without a heartbeat, and the
    reconciler queues it again.
    """
    if _resident is None:
        keep(WorkerState.load(load_settings()))
    assert _resident is not None
    resident = _resident
    with logged_job(job_id):
        _run(resident, job_id)


def _run(resident: WorkerState, job_id: str) -> None:
    token = resident.store.runs.start(job_id)
    if token is None:
        log.info("job %s has already ended", job_id)
        return
    job = resident.store.jobs.get(job_id)
    if _task_is_gone(resident, job):
        log.info("job %s is cancelled: its task was deleted in Label Studio", job_id)
        resident.store.jobs.cancel(job_id)
        return
    of_what = f" of {job.instruction[:80]}" if job.instruction else ""
    log.info("job %s, run %d: %s%s", job_id, job.runs, job.kind, of_what)
    this = _Run(resident, job, token)
    try:
        _carry_out(this)
    except StoreError as error:
        # From the work, or from recording how it ended.
        log.warning("job %s returns to the queue: %s", job_id, error)
        _give_back_patiently(this)


def _carry_out(this: _Run) -> None:
    """Does a run's work and records how it ended. Raises StoreError if the store does not answer."""
    resident, job_id, token = this.resident, this.job.id, this.token
    try:
        delivery = _done(this)
    except CancelledError:
        log.info("job %s was cancelled", job_id)
    except StaleRunError:
        log.warning("job %s was restarted by another worker; this run's work is discarded", job_id)
    except StoreError:
        raise
    except ServiceError as error:
        _put_off(this, error)
    except PreemptedError as error:
        log.info("job %s: %s", job_id, error.message)
        if this.give_back():
            resident.preempted.append(job_id)
    except InstructionError as error:
        _reject(resident, job_id, token, error)
    except TrajSegError as error:
        _fail(resident, job_id, token, error.message, error.remedy)
    except JobTimeoutException:
        _fail(
            resident,
            job_id,
            token,
            f"The job was stopped after {resident.settings.job_timeout_seconds} s.",
            "Cut the clip into shorter ones, or raise TRAJSEG_JOB_TIMEOUT_SECONDS.",
        )
    except Exception as error:
        log.exception("job %s failed", job_id)
        _fail(resident, job_id, token, *_explained(error))
    except SystemExit:
        # A cold shutdown: the worker exits as soon as this returns.
        log.warning("job %s returns to the queue: the worker is stopping", job_id)
        with _signals_wait():
            this.give_back()
    else:
        log.info("job %s is done", job_id)
        if delivery is not None:
            # Not waited for: the next job starts whatever Label Studio does. A delivery that is not due yet belongs to
            # an interactive job, whose page may still get it; what does not arrive is left to the backend.
            resident.hand.give(delivery)


def _done(this: _Run) -> Delivery | None:
    """What `do` returns. Raises as it does, but for an error that hides the signal by which the worker is to stop."""
    try:
        return this.do()
    except Exception as error:
        if hidden_exit(error):
            raise SystemExit from error
        raise


class _Run(JobContext[JobParams]):
    """One run of one job, holding its run token.

    Attributes:
        excused: this run does not count any more, since its worker was asked to exit.
    """

    def __init__(self, resident: WorkerState, job: Job, token: str) -> None:
        self.settings = resident.settings
        self.store = resident.store
        self.resident = resident
        self._courier = resident.courier
        self._stopping = resident.stopping
        self.excused = False
        self.job = job
        self.token = token
        self.timings: dict[str, float] = {}
        self._turn = Turn(resident.store, job, resident.settings.stale_after_seconds)
        self._stack = ExitStack()
        self._clip: Clip | None = None
        self._video_hash: str | None = None

    def do(self) -> Delivery | None:
        """Runs the kind's work and stores its outcome. Returns the delivery that is due, if any."""
        work = work_of(self.job.kind)
        self.params = self.job.asked
        self.engine = self.resident.engine_for(self.job, self.params.engine)
        with self._beating(), self._stack:
            outcome = work(self)
            if outcome.result is not None:
                outcome.result.video = self.job.video
                outcome.result.timings = {**self.timings, **outcome.result.timings}
                # Before the result is stored: its delivery needs the pictures.
                self._write_key_frames(outcome.result, outcome.notes)
        follow_up = [request.row() for request in outcome.follow_up]
        notes = outcome.notes.model_copy(update={"video_hash": self._video_hash})
        delivery = self.store.runs.finish(self.job.id, self.token, outcome.result, notes, outcome.report, follow_up)
        if outcome.result is not None:
            self.resident.tally.add(self.job.kind, outcome.result.timings)
        self._queue([row["id"] for row in follow_up])
        return delivery

    def _queue(self, job_ids: Sequence[str]) -> None:
        """Queues new jobs of the store at once; if that fails, the reconciler does it."""
        try:
            added = self.store.backlog.still_queued(job_ids)
        except StoreError as error:
            log.info("the follow-up of job %s will be queued later: %s", self.job.id, error)
            return
        if not added:
            return
        try:
            queue = JobQueue(self.settings.redis_url, self.settings.job_timeout_seconds)
            try:
                queue.enqueue_new(added)
            finally:
                queue.close()
        except (QueueError, InputError) as error:
            log.info("the follow-up of job %s will be queued later: %s", self.job.id, error)

    def give_back(self) -> bool:
        """Returns the job to its queue, as a run that does not count; True if this run was the newest."""
        if self.excused:
            return self.store.runs.requeue_lost(self.job.id, self.token)
        return self.store.runs.make_way(self.job.id, self.token)

    @property
    def clip(self) -> Clip:
        if self._clip is None:
            if not KINDS[self.job.kind].needs_clip:
                raise TrajSegError(f"A {self.job.kind} job has no clip.", "Declare needs_clip=True.")
            self._clip = self._fetch()
            self.progress(0, len(self._clip))
        return self._clip

    def use(self, name: str) -> Engine:
        # Keeping a reference would keep the engine in memory, too.
        del self.engine
        self.engine = self.resident.engine_for(self.job, name)
        return self.engine

    def unload(self) -> None:
        del self.engine
        self.resident.engines.unload()

    def progress(self, done: int, total: int) -> None:
        self.store.runs.progress(self.job.id, self.token, done, total)

    def alive(self) -> None:
        self.store.runs.heartbeat(self.job.id, self.token)

    def cancelled(self) -> bool:
        job = self.store.jobs.get(self.job.id)
        return job.state != "running" or job.run_token != self.token

    def preempted(self, done: int = 0, total: int = 0) -> bool:
        return (not total and self._stopping.is_set()) or self._turn.is_over(done, total)

    def result_of(self, job_id: str | None) -> Result | None:
        if job_id is None:
            return None
        try:
            return self.store.jobs.result(job_id)
        except InputError as error:
            log.warning("job %s: %s", self.job.id, error)
            return None

    def _fetch(self) -> Clip:
        started = time.perf_counter()
        policy = FetchPolicy.from_settings(self.settings)
        path = self._stack.enter_context(
            fetched(self.job.video, self.settings.data_dir / "downloads", policy, self.alive)
        )
        self.timings["fetch"] = time.perf_counter() - started
        if self.job.waiting_since is not None:
            # What this job was waiting for is available again, for the other jobs too.
            self.store.jobs.release_put_off()
            self._courier.breaker.succeeded()
        clip = self._open(path)
        self._video_hash = content_hash(path)
        self.timings["open"] = time.perf_counter() - started - self.timings["fetch"]
        return clip

    def _open(self, path: Path) -> Clip:
        # People know the task's address, not the file name in the cache.
        name = shown_address(self.job.video)
        settings = self.settings
        limits = DecoderLimits(settings.max_frames, settings.decoder_memory_bytes, settings.decoder_silence_seconds)
        clip = self._stack.enter_context(guarded_clip(path, name, limits, self.alive))
        for note in clip.notes:
            log.info("job %s: %s", self.job.id, note)
        return clip

    def _write_key_frames(self, result: Result, notes: JobNotes) -> None:
        indices = shown_frames(result, notes, self.settings.max_key_frames)
        for index, rgb in self.clip.frames(indices):
            path = self.settings.media_dir / key_frame_path(self.job.id, index)
            if self.settings.key_frame_numbers:
                rgb = numbered(rgb, self.clip.frame_map.editor_frame(index))
            try:
                private_folder(path.parent)
                save_frame(path, rgb, self.settings.key_frame_quality)
            except OSError as error:
                raise ServiceError(
                    f"The key frames of job {self.job.id} cannot be stored in {path.parent}: {error.strerror}.",
                    "Free some disk, or move TRAJSEG_DATA_DIR.",
                ) from error
            self.alive()

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Sends heartbeats in the background while the context lasts."""
        over = threading.Event()

        def beat() -> None:
            due = time.monotonic() + HEARTBEAT_SECONDS
            while not over.wait(min(LOOK_AROUND_SECONDS, HEARTBEAT_SECONDS)):
                try:
                    if self._stopping.is_set() and not self.excused:
                        self.excused = self.store.runs.excuse(self.job.id, self.token)
                    if time.monotonic() >= due:
                        self.alive()
                        due = time.monotonic() + HEARTBEAT_SECONDS
                except Exception as error:
                    # The run itself meets the same error at its next frame, and handles it there.
                    log.info("job %s: no heartbeat: %s", self.job.id, error)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Blocks further Ctrl-C and SIGTERM in this section: each would raise SystemExit wherever the worker is."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _give_back_patiently(this: _Run) -> None:
    """Returns a job to a store that does not answer now; if that takes too long, its lease runs out."""
    again = Retrying(
        retry=retry_if_exception_type(StoreError),
        stop=stop_after_delay(GIVE_BACK_SECONDS),
        wait=wait_fixed(0.5),
        reraise=True,
    )
    try:
        again(this.give_back)
    except StoreError as error:
        log.warning("job %s is left to the reconciler: %s", this.job.id, error)


def _task_is_gone(resident: WorkerState, job: Job) -> bool:
    """Whether Label Studio says that the job's task, or its project, was deleted, so nobody needs the result."""
    if job.task_id is None or job.project_id is None or not resident.courier.breaker.allows():
        return False
    try:
        client = connected(resident.settings, LOOK_SECONDS)
    except LabelStudioError:
        return False
    try:
        client.task(client.id_of(resident.store.projects.get(job.project_id)), job.task_id)
    except MissingError:
        return True
    except TrajSegError as error:
        if is_transient(error):
            resident.courier.breaker.failed(str(error))
    finally:
        client.close()
    return False


def _put_off(this: _Run, error: ServiceError) -> None:
    """Let a job wait for what does not answer, its video's server or a full disk; it fails where nobody would wait."""
    resident, job, token = this.resident, this.job, this.token
    moment = resident.store.now()
    waited = (moment - (job.waiting_since or moment)).total_seconds()
    if waited > resident.settings.fetch_patience_hours * 3600:
        _fail(resident, job.id, token, error.message, error.remedy)
        return
    pause = min(max(waited / 2, FIRST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)
    wish = error.retry_after if isinstance(error, BusyServerError) else None
    if isinstance(error, LabelStudioError):
        wish = retry_after(error)
    pause = max(pause, wish or 0.0)
    log.warning("job %s waits %.0f s: %s", job.id, pause, error)
    try:
        resident.store.runs.put_off(job.id, token, str(error), moment + timedelta(seconds=pause), this.excused)
    except (CancelledError, StaleRunError) as late:
        log.info("job %s: %s", job.id, late.message)


def _reject(resident: WorkerState, job_id: str, token: str, error: InstructionError) -> None:
    log.warning("job %s is rejected: %s", job_id, error)
    try:
        resident.store.runs.reject(job_id, token, error.message, error.remedy)
    except (CancelledError, StaleRunError) as late:
        log.info("job %s: %s", job_id, late.message)


def _fail(resident: WorkerState, job_id: str, token: str, error: str, remedy: str) -> None:
    log.warning("job %s failed: %s %s", job_id, error, remedy)
    try:
        resident.store.runs.fail(job_id, token, error, remedy)
    except (CancelledError, StaleRunError) as late:
        log.info("job %s: %s", job_id, late.message)


def _explained(error: Exception) -> tuple[str, str]:
    """Message and remedy for an unexpected error."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            f"There was not enough memory for this video: {error}",
            "Use a machine or GPU with more memory, a smaller model, or a smaller video.",
        )
    return (
        f"The worker failed with an unexpected error: {type(error).__name__}: {error}",
        "See the worker's log for details; POST /jobs/<id>/retry runs the job again.",
    )
