"""Interactive requests: an instruction typed, or a mark drawn, by a person waiting at the page."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from backend.engines import ChosenEngine
from backend.label_studio.incoming.comparison import is_about
from backend.label_studio.incoming.payloads import MAX_ADDRESS_LENGTH, Context, Task
from backend.label_studio.outgoing import views, words
from backend.service import marks
from backend.service.jobs import JobControl
from backend.service.requests import INSTRUCTION_KEY, lacking, prelabel_request, rejected_request, rejection_of
from backend.settings import Settings
from backend.store import Job, JobRequest, Project, Store
from backend.store.durations import typical_seconds
from backend.store.models import now
from backend.store.reports import Reports
from backend.store.rows import UNFINISHED
from label_config import LabelConfig
from trajseg.engines.base import MAX_INSTRUCTION_LENGTH
from trajseg.errors import InputError, InstructionError, LabelConfigError, TaskError
from trajseg.tracks import Result

log = logging.getLogger("trajseg.backend")

POLL_SECONDS = 0.1
ANSWER_MARGIN_SECONDS = 3.0
"""Time for an answer to reach the page before its result is delivered as a prediction."""
ACCEPT_SECONDS = 60.0
"""A suggestion not accepted within this time becomes a prediction, since the page may have been left."""
GLANCE_SECONDS = 2.0
"""Wait at the page if jobs are expected to take longer than the configured wait anyway."""
SAME_ANSWER = timedelta(minutes=10)
"""The engine is not asked again about an instruction that it did not understand within this time."""
SPARE_THREADS = 4
"""Threads reserved for /health and batch requests, so that waiting pages cannot take them all."""

Answer = list[dict[str, Any]]


class InteractiveLabelling:
    """Waits for interactive jobs up to the configured time, and shows their results on the page."""

    def __init__(self, store: Store, jobs: JobControl, settings: Settings) -> None:
        self.store = store
        self.jobs = jobs
        self.settings = settings
        self.waiting = threading.BoundedSemaphore(max(settings.threads - SPARE_THREADS, 1))

    def answer(
        self, project: Project, engine: ChosenEngine, config: LabelConfig, tasks: Sequence[Task], context: Context
    ) -> Answer:
        """Answers an instruction typed on the page, or a mark, within the time limit; else delivers the result later.

        Anything else that a person does there (such as changing a label) gets an empty answer.
        Raises TaskError or InstructionError if the task lacks something.
        """
        others = [tag.name for tag in (config.caption, config.answer) if tag]
        text = context.typed_text(*others)
        if not text:
            return [self._answered_mark(project, engine, config, task, context) for task in tasks]
        wait = self._worthwhile_wait(project, engine)
        deadline = time.monotonic() + wait
        until = (now() + timedelta(seconds=wait + ANSWER_MARGIN_SECONDS)).isoformat()
        jobs = []
        for task in tasks:
            # If the page has no pictures yet there is nothing to wait for: the delivery adds them.
            params: dict[str, Any] = {"answer_until": until if _key_frames(config, task) is not None else None}
            params["typed"] = text != str(task.data.get(INSTRUCTION_KEY) or "").strip()
            try:
                jobs.append(self._typed(project, engine, config, task, text, params))
            except (TaskError, InstructionError) as error:
                if config.answer is None:
                    raise
                # Label Studio does not show errors to annotators.
                answer = words.not_done(text, error.message, error.remedy, rejection_of(error))
                return [_answer_only(config, context, answer) for _ in tasks]
        if not self.jobs.enqueue([job for job in jobs if job.state == "queued"]):
            # No worker would start them while the person waits.
            deadline = time.monotonic()
        return [
            self._answer_in_time(job, config, task, deadline, context) for job, task in zip(jobs, tasks, strict=True)
        ]

    def _worthwhile_wait(self, project: Project, engine: ChosenEngine) -> float:
        """Seconds to wait for an answer; short if such jobs take longer than the limit anyway."""
        usual = typical_seconds(self.store.database, project.id, "prelabel", engine.model_version)
        wait = self.settings.interactive_wait_seconds
        return min(wait, GLANCE_SECONDS) if usual and usual > wait else wait

    def _still_running(self, config: LabelConfig, context: Context, job: Job) -> dict[str, Any]:
        """Why there is no result to show: the job is waiting, running, failed or cancelled."""
        job = self.store.jobs.get(job.id)
        what = job.instruction if job.kind == "prelabel" else "your mark"
        if job.state in ("failed", "rejected", "cancelled"):
            error = job.error or f"The job was {job.state}."
            return _answer_only(config, context, words.not_done(what, error, job.remedy, job.rejection), job)
        usual = typical_seconds(self.store.database, job.project_id or 0, job.kind, job.model_version)
        ahead = Reports(self.store.database).ahead(job) if job.state == "queued" else 0
        return _answer_only(config, context, words.running(what, job, ahead, usual), job)

    def _answered_mark(
        self, project: Project, engine: ChosenEngine, config: LabelConfig, task: Task, context: Context
    ) -> dict[str, Any]:
        try:
            return self._mark(project, engine, config, task, context)
        except TaskError as error:
            if config.answer is None:
                raise
            return _answer_only(config, context, words.not_done("your mark", error.message, error.remedy))

    def _mark(
        self, project: Project, engine: ChosenEngine, config: LabelConfig, task: Task, context: Context
    ) -> dict[str, Any]:
        """Segments the object under a smart rectangle or point, and propagates it through the clip.

        The answer holds the track on pictures that do not show it yet; the whole track is delivered as a prediction.
        """
        found = marks.drawn(context, config, task)
        if not found:
            return {"result": []}
        base_id = marks.base_job(task, engine.model_version)
        base, result = self._known(base_id)
        if base is not None and not is_about(base, config, project.id, task.id, task.data):
            base, result = None, None
        labelled = marks.with_labels(found, result, config, task)
        if not labelled:
            return {"result": []}
        own = task.data.get(INSTRUCTION_KEY)
        instruction = base.instruction if base else str(own or "")
        params = {"marks": labelled, "base_job_id": base.id if base else None, **engine.params}
        video = str(base.video if base else config.video_of(task.data) or "")[:MAX_ADDRESS_LENGTH]
        if not video:
            raise TaskError(
                f"Task {task.id} has no video: its data lacks {lacking(config, task)}.",
                "Import the task again, with its video.",
            )
        request = JobRequest(
            "refine",
            project.id,
            task.id,
            video,
            instruction[:MAX_INSTRUCTION_LENGTH],
            "interactive",
            params,
            engine.model_version,
            subject=f"marks {marks.digest(labelled, base_id)}",
        )
        job, created = self.store.jobs.add_all([request])[0]
        if not created and job.state in ("failed", "cancelled"):
            job = self.store.jobs.retry(job.id)
        deadline = time.monotonic() + self.settings.interactive_wait_seconds
        if job.state == "queued" and not self.jobs.enqueue([job]):
            return self._still_running(config, context, job)
        key_frames = _key_frames(config, task)
        if key_frames is None or (job.state != "done" and not self._wait(job, deadline)):
            return self._still_running(config, context, job)
        result = self.store.jobs.result(job.id)
        labels = {mark["label"] for mark in labelled}
        result.tracks = [track for track in result.tracks if track.label in labels]
        rate = config.rate_for(task.data)
        shown = views.to_results(result, config.view, config, key_frames, frame_rate=rate, job_id=job.id, texts=False)
        shown = marks.empty_places(shown, task, config)
        if not shown:
            return _answer_only(config, context, words.refined_elsewhere(sorted(labels)), job)
        return {"result": shown, "score": views.score(result), "model_version": result.model_version}

    def _known(self, job_id: str | None) -> tuple[Job | None, Result | None]:
        """A done job of the store and its tracks, if there is one."""
        try:
            job = self.store.jobs.get(job_id) if job_id else None
            return job, self.store.jobs.result(job.id) if job else None
        except InputError:
            return None, None

    def _typed(
        self,
        project: Project,
        engine: ChosenEngine,
        config: LabelConfig,
        task: Task,
        text: str,
        params: dict[str, Any],
    ) -> Job:
        try:
            request = prelabel_request(project, engine, config, task, text, "interactive", params)
        except (TaskError, InstructionError) as error:
            self.store.jobs.add_all([rejected_request(project, engine, task, error, config, text)])
            raise
        job, created = self.store.jobs.add_all([request])[0]
        if created or job.state == "done" or _just_rejected(job):
            return job
        return self.store.jobs.retry(job.id, queue="interactive", params=params)

    def _answer_in_time(
        self, job: Job, config: LabelConfig, task: Task, deadline: float, context: Context
    ) -> dict[str, Any]:
        key_frames = _key_frames(config, task)
        if key_frames is None or (job.state != "done" and not self._wait(job, deadline)):
            return self._still_running(config, context, job)
        result = self.store.jobs.result(job.id)
        if any(index >= result.frame_count for index in key_frames):
            log.warning("task %s has pictures from beyond the end of its video", task.id)
            return {"result": []}
        if config.answer and not any(track.present for track in result.tracks):
            return _answer_only(config, context, words.nothing_there(job.instruction, result), job)
        _relabel(result, config, task, job.id)
        try:
            rate = config.rate_for(task.data)
            results = views.to_results(
                result, config.view, config, key_frames, frame_rate=rate, job_id=job.id, texts=False
            )
        except LabelConfigError as error:
            log.warning("job %s cannot be shown: %s", job.id, error)
            return {"result": []}
        labels = views.assign_labels(result.tracks, config)
        if config.answer and config.view == "mask" and not results:
            return _answer_only(config, context, words.elsewhere(job.instruction, labels), job)
        delivery = self.store.deliveries.of_job(job.id)
        if delivery is not None and delivery.state == "pending":
            # There is no telling whether the page was still open: what is not accepted becomes a prediction.
            self.store.deliveries.look_later(delivery.id, now() + timedelta(seconds=ACCEPT_SECONDS))
        results += views.answer_result(config, words.found(job.instruction, result, labels), job.id)
        return {"result": results, "score": views.score(result), "model_version": result.model_version}

    def _wait(self, job: Job, deadline: float) -> bool:
        """Whether the job is done before the deadline."""
        if not self.waiting.acquire(blocking=False):
            log.warning("job %s will be delivered later: too many requests are waiting", job.id)
            return False
        try:
            while True:
                state = self.store.jobs.get(job.id).state
                if state not in UNFINISHED:
                    return state == "done"
                if time.monotonic() >= deadline:
                    return False
                time.sleep(POLL_SECONDS)
        finally:
            self.waiting.release()


def _just_rejected(job: Job) -> bool:
    """Whether the engine just did not understand the instruction. What a task lacked may be there by now."""
    if job.state != "rejected" or job.rejection != "instruction" or job.finished_at is None:
        return False
    return now() - job.finished_at < SAME_ANSWER


def _answer_only(config: LabelConfig, context: Context, text: str, job: Job | None = None) -> dict[str, Any]:
    """An answer in words only; the typed instruction is removed from the page's instructions."""
    result = views.answer_result(config, text, job.id if job else "")
    if config.instruction and result:
        lines = context.lines_of(config.instruction.name)
        result += views.instructions(config, lines[:-1]) if lines else []
    return {"result": result}


def _relabel(result: Result, config: LabelConfig, task: Task, job_id: str) -> None:
    """Gives the tracks labels that are free in the task: two objects under one label would be merged.

    Predicted regions give up their labels if there are too few.
    """
    drawn = [held.labels(job_id) for held in (*task.annotations, *task.drafts)]
    predicted = [held.labels(job_id) for held in task.predictions]
    for taken in (set().union(*drawn, *predicted), set().union(*drawn)):
        free = [label for label in config.labels if label not in taken]
        if taken and len(free) >= len(result.tracks):
            for track, label in zip(result.tracks, free, strict=False):
                track.label = label
            return


def _key_frames(config: LabelConfig, task: Task) -> list[int] | None:
    """0-based indices of the frames on the task's page; empty in the box view, None if unknown."""
    if config.view == "box":
        return []
    frames, indices = config.frames_of(task.data), task.data.get("frame_index")
    if not isinstance(frames, list) or not isinstance(indices, list) or len(frames) != len(indices):
        return None
    if not indices or not all(isinstance(index, int) and index >= 0 for index in indices):
        return None
    return indices
