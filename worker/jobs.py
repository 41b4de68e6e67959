"""Runs one job: video in, mask tracks into the store, key frames onto the disk, the prediction on its way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rq.timeouts import JobTimeoutException

from backend.label_studio.delivery import deliverer, key_frame_path
from backend.settings import Settings
from backend.store import Delivery, Job, StaleRunError, Store
from trajseg.engine import Engine, check_instruction
from trajseg.errors import CancelledError, TrajSegError, VideoError
from trajseg.tracks import Result, key_frames
from trajseg.video import Clip, open_clip, save_frame
from worker.engines import load_engine
from worker.fetch import FetchPolicy, fetched

log = logging.getLogger("trajseg.worker")

HEARTBEAT_SECONDS = 10.0
"""How often a run says that it lives while it has no frames to count, as when the language model thinks."""


@dataclass(frozen=True)
class Resident:
    """What a worker keeps between jobs."""

    settings: Settings
    store: Store
    engine: Engine

    @classmethod
    def load(cls, settings: Settings) -> Resident:
        """Opens the store and loads the engine. Raises CheckpointError when the engine cannot be loaded."""
        engine = load_engine(settings.model, settings.device)
        store = Store(settings.store_url)
        store.migrate()
        return cls(settings, store, engine)


_resident: Resident | None = None


def keep(resident: Resident | None) -> None:
    """Makes `resident` what all further jobs of this process run with."""
    global _resident
    _resident = resident


def run(job_id: str) -> None:
    """RQ's entry: begins the job, and ends it as done, failed or cancelled in the store.

    Nothing is raised for what the store can say. Where the store is gone a running job stays behind without
    heartbeat, and the reconciler puts it into the queue again.
    """
    if _resident is None:
        keep(Resident.load(Settings()))
    assert _resident is not None
    resident = _resident
    token = resident.store.start_run(job_id)
    if token is None:
        log.info("job %s is over already", job_id)
        return
    job = resident.store.job(job_id)
    log.info("job %s, run %d: %s of %s", job_id, job.runs, job.kind, job.instruction[:80])
    try:
        delivery = _Run(resident, job, token).do()
    except CancelledError:
        log.info("job %s was cancelled", job_id)
    except StaleRunError:
        log.warning("job %s was begun anew by another worker; this run's work is dropped", job_id)
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
        # The worker was told to stop at once, and ends as soon as this returns.
        log.warning("job %s is given back: the worker was told to stop", job_id)
        resident.store.requeue_lost(job_id, token)
    else:
        log.info("job %s is done", job_id)
        if delivery is not None:
            deliver_now(resident, delivery)


class _Run:
    """One run of one job, by the holder of its run token."""

    def __init__(self, resident: Resident, job: Job, token: str) -> None:
        self.settings = resident.settings
        self.store = resident.store
        self.engine = resident.engine
        self.job = job
        self.token = token

    def do(self) -> Delivery | None:
        if self.job.kind != "prelabel":
            raise TrajSegError(
                f"This worker cannot do jobs of the kind {self.job.kind}.",
                "Start a worker of the same version of trajseg as the backend.",
            )
        instruction = check_instruction(self.job.instruction)
        policy = FetchPolicy.from_settings(self.settings)
        started = time.perf_counter()
        with (
            self._beating(),
            fetched(self.job.video, self.settings.data_dir / "downloads", policy, self._alive) as path,
        ):
            fetch_seconds = time.perf_counter() - started
            clip = self._open(path)
            open_seconds = time.perf_counter() - started - fetch_seconds
            self._progress(0, len(clip))
            result = self.engine.segment(clip, instruction, self._progress)
            result.video = self.job.video
            result.timings = {"fetch": fetch_seconds, "open": open_seconds, **result.timings}
            # Before the store knows of the result: whoever delivers it must find the pictures.
            self._write_key_frames(clip, result)
        return self.store.finish(self.job.id, self.token, result)

    def _open(self, path: Path) -> Clip:
        try:
            clip = open_clip(path)
        except VideoError as error:
            # A person knows the task's address, not the name in the cache.
            raise VideoError(error.message.replace(str(path), self.job.video), error.remedy) from error
        if len(clip) > self.settings.max_frames:
            raise VideoError(
                f"The video {self.job.video} has {len(clip)} frames, {self.settings.max_frames} are allowed.",
                "Cut it into shorter clips, or raise TRAJSEG_MAX_FRAMES.",
            )
        for note in clip.notes:
            log.info("job %s: %s", self.job.id, note)
        return clip

    def _write_key_frames(self, clip: Clip, result: Result) -> None:
        indices = key_frames(result, self.settings.max_key_frames)
        for index, rgb in clip.frames(indices):
            path = self.settings.media_dir / key_frame_path(self.job.id, index)
            save_frame(path, rgb, self.settings.key_frame_quality)
            self._alive()

    def _progress(self, done: int, total: int) -> None:
        self.store.progress(self.job.id, self.token, done, total)

    def _alive(self) -> None:
        self.store.heartbeat(self.job.id, self.token)

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """A heartbeat from beside the run, for as long as the context lasts."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(HEARTBEAT_SECONDS):
                try:
                    self._alive()
                except Exception as error:
                    # The run itself meets the same at its next frame, and that is where it is dealt with.
                    log.info("job %s: no heartbeat: %s", self.job.id, error)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def deliver_now(resident: Resident, delivery: Delivery) -> None:
    """Tries to bring a prediction to Label Studio; one that does not arrive is the reconciler's from then on.

    Does nothing for one that is not due: an interactive job's, which the page that asked may still get.
    """
    try:
        if resident.store.claim_delivery(delivery.id):
            deliverer(resident.store, resident.settings)(delivery)
    except TrajSegError as error:
        log.warning("job %s is not delivered yet: %s", delivery.job_id, error)


def _fail(resident: Resident, job_id: str, token: str, error: str, remedy: str) -> None:
    log.warning("job %s failed: %s %s", job_id, error, remedy)
    try:
        resident.store.fail(job_id, token, error, remedy)
    except (CancelledError, StaleRunError) as late:
        log.info("job %s: %s", job_id, late.message)


def _explained(error: Exception) -> tuple[str, str]:
    """What happened and what to do, for an error that nobody foresaw."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            f"There was not enough memory for this video: {error}",
            "Use a machine or GPU with more memory, a smaller model, or a smaller video.",
        )
    return (
        f"The worker met an error that it does not know: {type(error).__name__}: {error}",
        "The worker's log has the details; run the job again with POST /jobs/<id>/retry.",
    )
