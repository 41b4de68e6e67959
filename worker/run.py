"""Runs one job: video in, mask tracks into the store, key frames onto the disk, the prediction on its way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rq.timeouts import JobTimeoutException

from backend.label_studio.outgoing.delivery import deliverer
from backend.label_studio.outgoing.pictures import key_frame_path, shown_frames
from backend.settings import Settings
from backend.store import Delivery, Job, StaleRunError, Store
from trajseg.engines.base import Engine, Progress, check_instruction
from trajseg.engines.registry import load_engine
from trajseg.errors import CancelledError, InputError, TrajSegError, VideoError
from trajseg.tracks import Result
from trajseg.video import Clip, open_clip, save_frame
from worker.fetch import FetchPolicy, fetched
from worker.kinds.outcome import Made, describes
from worker.kinds.refining import Hint, Known, Refiner, source_tracks

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
        works: dict[str, Callable[[Clip], Made]] = {
            "prelabel": self._prelabel,
            "refine": self._refine,
            "caption": self._caption,
        }
        if self.job.kind not in works:
            raise TrajSegError(
                f"This worker cannot do jobs of the kind {self.job.kind}.",
                "Start a worker of the same version of trajseg as the backend.",
            )
        if self.job.kind == "prelabel":
            check_instruction(self.job.instruction)
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
            made = works[self.job.kind](clip)
            result, notes = made.result, made.notes()
            result.video = self.job.video
            result.timings = {"fetch": fetch_seconds, "open": open_seconds, **result.timings}
            # Before the store knows of the result: whoever delivers it must find the pictures.
            self._write_key_frames(clip, result, notes)
            to_describe = self.job.kind == "refine" and describes(self.engine, clip)
        delivery = self.store.finish(self.job.id, self.token, result, notes)
        if to_describe:
            self._ask_for_captions(result)
        return delivery

    def _ask_for_captions(self, result: Result) -> None:
        """A job of its own for tracks without a caption: the refined masks need not wait for it."""
        if all(track.caption for track in result.tracks):
            return
        # The reconciler queues it: a worker has no queue of its own.
        self.store.add_job(
            "caption",
            self.job.project_id,
            self.job.task_id,
            self.job.video,
            self.job.instruction,
            "interactive",
            {"job_id": self.job.id},
            model_version=self.job.model_version,
            subject=f"captions of {self.job.id}",
        )

    def _prelabel(self, clip: Clip) -> Made:
        """Tracks of what the instruction means."""
        result = self.engine.segment(clip, check_instruction(self.job.instruction), self._progress)
        made = Made(result)
        # The grounding answer has put them into words already; the trajectories themselves tell more.
        made.caption(self.engine, clip, result.tracks, lambda done, total: self._alive())
        return made

    def _refine(self, clip: Clip) -> Made:
        """The tracks of an earlier job, with what a person painted or hinted at carried to all frames."""
        corrections, params = self.store.corrections, self.job.params
        base_id = params.get("base_job_id")
        base = self._result(base_id)
        annotation_id = params.get("annotation_id")
        if annotation_id is None and base_id:
            # A hint on tracks that were refined before: what was painted then still stands.
            annotation_id = self.store.job(base_id).params.get("annotation_id")
        painted = corrections.painted(self.job.project_id or 0, annotation_id) if annotation_id is not None else []
        hints = [Hint.from_json(form) for form in params.get("hints") or []]
        if not painted and not hints:
            raise InputError("What this job was to carry on is no longer there: the annotation was deleted.")
        started = time.perf_counter()
        tracks = source_tracks(base, painted, self._result, base_id)
        refined = Refiner(self.engine, clip, self.job.instruction).run(tracks, painted, hints, self._progress)
        result = Result(
            video=self.job.video,
            fps=clip.fps,
            width=clip.width,
            height=clip.height,
            frame_count=len(clip),
            instruction=self.job.instruction,
            answer=base.answer if base else "",
            model_version=self.engine.model_version,
            tracks=refined.tracks,
            timings={"refine": time.perf_counter() - started},
        )
        made = Made(result, refined.notes, refined.known)
        if base_id and base:
            made.keep_warnings(self.store.job(base_id).result or {})
        return made

    def _caption(self, clip: Clip) -> Made:
        """The tracks of an earlier job, with a sentence on each that had none."""
        if not describes(self.engine, clip):
            raise InputError(f"{self.engine.model_version} cannot describe tracks.", "Serve a model that can.")
        result = self._result(self.job.params.get("job_id"))
        if result is None:
            raise InputError("The job whose tracks were to be described is gone.", "Ask for the tracks again.")
        before = self.store.job(self.job.params["job_id"])
        held = before.result or {}
        made = Made(result, list(held.get("refinement") or []))
        made.known = {one["track"]: Known(list(one["painted"])) for one in made.refinement}
        made.keep_warnings(held)
        result.model_version = self.engine.model_version
        made.caption(self.engine, clip, [one for one in result.tracks if not one.caption], self._counted(len(clip)))
        return made

    def _result(self, job_id: str | None) -> Result | None:
        """The tracks of another job; None where it has none any more."""
        if job_id is None:
            return None
        try:
            return self.store.tracks(job_id)
        except InputError as error:
            log.warning("job %s: %s", self.job.id, error)
            return None

    def _counted(self, frames: int) -> Progress:
        """Progress in tracks, told as a share of the clip's frames."""
        return lambda done, total: self._progress(round(frames * done / max(total, 1)), frames)

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

    def _write_key_frames(self, clip: Clip, result: Result, notes: Mapping[str, Any]) -> None:
        indices = shown_frames(result, notes, self.settings.max_key_frames)
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
