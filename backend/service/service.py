"""What the backend does with Label Studio's requests; the routes and the label-studio-ml adapter call it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

from backend.engines import ChosenEngine, OfferedEngines
from backend.label_studio.incoming.payloads import (
    Context,
    PredictRequest,
    ProjectReference,
    SetupRequest,
    Task,
    WebhookRequest,
    storable,
)
from backend.label_studio.outgoing import views
from backend.queue import JobQueue
from backend.service import marks as hints
from backend.service.combining import Combiner, asked_once
from backend.service.training import request_training
from backend.settings import Settings
from backend.store import Job, JobRequest, Project, Store
from backend.store.models import now
from backend.store.params import FinetuneParams
from backend.store.rows import UNFINISHED
from label_config import LabelConfig, parse
from trajseg.engines.base import MAX_INSTRUCTION_LENGTH
from trajseg.errors import InputError, InstructionError, LabelConfigError, QueueError, TaskError, TrajSegError
from trajseg.tracks import Result

log = logging.getLogger("trajseg.backend")

INSTRUCTION_KEY = "instruction"
"""Key of the sentence in a task's data."""
TRAINING_ACTIONS = ("START_TRAINING",)
CORRECTION_ACTIONS = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
PROJECT_ACTIONS = ("TASKS_CREATED", "TASKS_DELETED", "PROJECT_UPDATED")
POLL_SECONDS = 0.1
ANSWER_MARGIN_SECONDS = 3.0
"""Time for an answer to reach the page before its result is delivered as a prediction."""
ENQUEUED_AT_ONCE = 25
"""More jobs than these are queued while the answer is on its way already."""
SPARE_THREADS = 4
"""Threads that are never taken by waiting, so that /health and batch requests are answered."""

Answer = list[dict[str, Any]]


class Service:
    """Requests in, jobs in the store, answers out. Safe to share between threads.

    `version_of` a project is what /setup answers and predictions carry.

    Args:
        on_notice: called when a webhook has said that there is an annotation to read.
    """

    def __init__(
        self, settings: Settings, store: Store, queue: JobQueue, on_notice: Callable[[], None] = lambda: None
    ) -> None:
        self.settings = settings
        self.store = store
        self.queue = queue
        # Read once: the worker too keeps the model that it was started with.
        self.engines = OfferedEngines.from_settings(settings)
        self.webhooks: Counter[str] = Counter()
        self._on_notice = on_notice
        self._waiting = threading.BoundedSemaphore(max(settings.threads - SPARE_THREADS, 1))
        self._noted = asked_once(self._note_project)
        self._chosen = asked_once(self._choose_engine)
        self._added = Combiner(self._add_new)

    def setup(self, request: SetupRequest) -> dict[str, Any]:
        """Note the project, and the engine that its connection names.

        Raises:
            LabelConfigError: trajseg cannot fill its configuration.
            InputError: there is no such engine on offer; the project keeps the one that it has.
        """
        reference = ProjectReference.read(request.project)
        project = self.store.projects.upsert(
            reference.label_studio_id, request.hostname, request.label_config, stamp=reference.stamp
        )
        parse(request.label_config)
        project = self.store.engines.choose(project.id, self.engines.checked(request.engine))
        return {"model_version": self.version_of(project)}

    @property
    def model_version(self) -> str:
        """Of the default engine, without any project's adapter."""
        return self.engines.base("")

    def base_of(self, project: Project) -> str:
        """Of a project's engine, without an adapter; of the default one where its engine is no longer on offer."""
        return self.engines.versions.get(project.engine, self.model_version)

    def version_of(self, project: Project) -> str:
        """The model version that serves a project now. Raises InputError where its engine is no longer on offer."""
        return self.engines.chosen(self.store, project).model_version

    def predict(self, request: PredictRequest) -> Answer:
        """Write down what is asked for, and answer what Label Studio takes for "not yet".

        Without a context the tasks are to be labelled beforehand: the answer is empty and the results are
        delivered later. With one, a person waits in front of the page: see `_interactive`.

        Raises:
            InputError: no project that can be known, or a labelling configuration that cannot be filled; the
                tasks are kept as failed jobs all the same, where there is a project.
        """
        project = self._project(request)
        context = request.params.context
        if context is not None and not context.result:
            # What the page sends after each submit; nothing was asked.
            return _nothing(request.tasks)
        engine = None
        try:
            engine = self._chosen((project, request.params.engine))
            config = parse(project.label_config)
        except InputError as error:
            if context is None:
                self._reject(project, engine, request.tasks, error)
            raise
        if context is not None:
            return self._interactive(project, engine, config, request.tasks, context)
        self._batch(project, engine, config, request.tasks)
        return []

    def hint(self, request: WebhookRequest) -> dict[str, Any] | None:
        """Take note of an event; None for one that trajseg does not know.

        Webhooks are not signed, so they only say that something may have changed. The one thing taken from
        their body is a labelling configuration, for a project that is known and only if it can be filled:
        every /predict brings it again.
        """
        action = request.action
        if action not in TRAINING_ACTIONS + CORRECTION_ACTIONS + PROJECT_ACTIONS:
            self.webhooks["other"] += 1
            return None
        self.webhooks[action] += 1
        answer: dict[str, Any] = {"action": action}
        if action in TRAINING_ACTIONS:
            answer |= self._train(request)
        if action == "PROJECT_UPDATED" and request.project is not None:
            answer["refreshed"] = self._refresh(request)
        if action in CORRECTION_ACTIONS:
            answer["noted"] = self._note(request)
        return answer

    def enqueue(self, jobs: Sequence[Job], new: bool = False) -> bool:
        """Put jobs of the store into the queue; False when that is down, and the reconciler does it later."""
        try:
            if new:
                self.queue.enqueue_new(jobs)
            else:
                for job in jobs:
                    self.queue.enqueue(job)
        except QueueError as error:
            log.warning("%d jobs wait in the store: %s", len(jobs), error)
            return False
        return True

    def enqueue_many(self, jobs: Sequence[Job], new: bool = False) -> None:
        """As `enqueue`, but does not wait for it where there are many jobs."""
        if len(jobs) > ENQUEUED_AT_ONCE:
            threading.Thread(target=self.enqueue, args=(jobs, new), name="enqueue", daemon=True).start()
        elif jobs:
            self.enqueue(jobs, new)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: a waiting one leaves the queue, a running one stops at its next frame."""
        job = self.store.jobs.cancel(job_id)
        try:
            self.queue.remove(job_id)
        except QueueError as error:
            # The worker asks the store before it begins.
            log.warning("job %s stays in the queue: %s", job_id, error)
        return job

    def retry(self, job_id: str) -> Job:
        """Do a finished job again; of a done one whose delivery failed, only the delivery."""
        job = self.store.jobs.get(job_id)
        if job.asked.rejected:
            raise TaskError(job.error, job.remedy)
        delivery = self.store.deliveries.of_job(job_id)
        if job.state == "done" and delivery is not None and delivery.state in ("failed", "dropped"):
            self.store.deliveries.send_again(job_id)
            return job
        job = self.store.jobs.retry(job_id)
        self.enqueue([job])
        return job

    def _project(self, request: PredictRequest) -> Project:
        reference = ProjectReference.read(request.project)
        return self._noted((reference.label_studio_id, reference.stamp, request.label_config))

    def _note_project(self, told: tuple[int, str, str]) -> Project:
        number, stamp, label_config = told
        if label_config:
            return self.store.projects.upsert(number, "", label_config, stamp=stamp)
        return self.store.projects.of_label_studio(number, stamp)

    def _choose_engine(self, asked: tuple[Project, str]) -> ChosenEngine:
        return self.engines.chosen(self.store, *asked)

    def _add_new(self, batches: Sequence[Sequence[JobRequest]]) -> list[list[tuple[Job, bool]]]:
        """Write down the jobs of several requests, and queue those that are new."""
        added = self.store.jobs.add_all([request for batch in batches for request in batch])
        new = [job for job, created in added if created and job.state == "queued"]
        self.enqueue_many(new, new=True)
        rest = iter(added)
        return [list(islice(rest, len(batch))) for batch in batches]

    def _reject(
        self, project: Project, engine: ChosenEngine | None, tasks: Sequence[Task], error: TrajSegError
    ) -> None:
        self.store.jobs.add_all([self._rejected(project, engine, task, error) for task in tasks])

    def _rejected(
        self,
        project: Project,
        engine: ChosenEngine | None,
        task: Task,
        error: TrajSegError,
        config: LabelConfig | None = None,
        typed: str | None = None,
    ) -> JobRequest:
        """A job that cannot be done, written down so that a person sees why."""
        video = config.video_of(task.data) if config else task.data.get("video")
        instruction = typed or task.data.get(INSTRUCTION_KEY)
        return JobRequest(
            "prelabel",
            project.id,
            task.id,
            storable(video) if isinstance(video, str) else "",
            storable(instruction)[: MAX_INSTRUCTION_LENGTH + 1] if isinstance(instruction, str) else "",
            "prelabel",
            {"rejected": True},
            engine.model_version if engine else "",
            error.message,
            error.remedy,
        )

    def _request(
        self,
        project: Project,
        engine: ChosenEngine,
        config: LabelConfig,
        task: Task,
        instruction: object,
        queue: str,
        params: dict[str, Any] | None = None,
    ) -> JobRequest:
        """Raises TaskError or InstructionError where the task lacks something."""
        name = f"Task {task.id}"
        if task.problem:
            raise TaskError(task.problem, "Import the task again.")
        video = config.video_of(task.data)
        _check_text(name, config.video_key, video)
        _check_text(name, INSTRUCTION_KEY, instruction)
        if not isinstance(video, str) or not video.strip():
            raise TaskError(
                f"{name} has no video: its data lacks {_lacking(config, task)}.",
                f"Import tasks such as {{'{config.video_key}': 'https://.../clip.mp4', "
                f"'{INSTRUCTION_KEY}': 'the red car'}}.",
            )
        if not isinstance(instruction, str) or not instruction.strip():
            raise TaskError(
                f"{name} has no instruction: its data lacks `{INSTRUCTION_KEY}`.",
                f"Add `{INSTRUCTION_KEY}` to the task's data, or type the sentence in the task's page.",
            )
        if len(instruction.strip()) > MAX_INSTRUCTION_LENGTH:
            raise InstructionError(
                f"The instruction of task {task.id} has {len(instruction.strip())} characters, "
                f"{MAX_INSTRUCTION_LENGTH} are allowed.",
                "Say it shorter.",
            )
        return JobRequest(
            "prelabel",
            project.id,
            task.id,
            video.strip(),
            instruction.strip(),
            queue,
            {**(params or {}), **engine.params},
            engine.model_version,
        )

    def _batch(self, project: Project, engine: ChosenEngine, config: LabelConfig, tasks: Sequence[Task]) -> None:
        requests = []
        for task in tasks:
            try:
                instruction = task.data.get(INSTRUCTION_KEY)
                requests.append(self._request(project, engine, config, task, instruction, "prelabel"))
            except TrajSegError as error:
                requests.append(self._rejected(project, engine, task, error, config))
        added = self._added(requests)
        for (job, created), request, task in zip(added, requests, tasks, strict=True):
            if not created and not request.error:
                try:
                    self._asked_again(job, task)
                except TrajSegError as error:
                    log.warning("job %s of task %s is not run again: %s", job.id, task.id, error)

    def _asked_again(self, job: Job, task: Task) -> None:
        """Label Studio asks for what it has no prediction of, though the job is known."""
        if job.state == "failed":
            ended = job.finished_at or job.created_at
            waited = now() - ended >= timedelta(seconds=self.settings.retry_failed_seconds)
            if waited or job.asked.rejected:
                self.enqueue([self.store.jobs.retry(job.id, params={"rejected": False})])
        elif job.state == "done" and task.id is not None:
            if any(prediction.model_version == job.model_version for prediction in task.predictions):
                return
            delivery = self.store.deliveries.of_job(job.id)
            if delivery is not None and (delivery.state != "pending" or delivery.attempts):
                # It was deleted there, or has not arrived yet: somebody waits for it now.
                self.store.deliveries.send_again(job.id)

    def _interactive(
        self, project: Project, engine: ChosenEngine, config: LabelConfig, tasks: Sequence[Task], context: Context
    ) -> Answer:
        """Answer an instruction typed in the page, or a hint, within the settable time, else deliver it later.

        Anything else that a person does there (a label changed) is answered with nothing.
        Raises TaskError or InstructionError where the task lacks something.
        """
        text = context.typed_text(config.caption.name if config.caption else "")
        if not text:
            return [self._hinted(project, engine, config, task, context) for task in tasks]
        wait = self.settings.interactive_wait_seconds
        deadline = time.monotonic() + wait
        until = (now() + timedelta(seconds=wait + ANSWER_MARGIN_SECONDS)).isoformat()
        jobs = []
        for task in tasks:
            # Where the page has no key frames yet there is nothing to wait for: the delivery brings them.
            params = {"answer_until": until if _key_frames(config, task) is not None else None}
            jobs.append(self._typed(project, engine, config, task, text, params))
        if not self.enqueue([job for job in jobs if job.state == "queued"]):
            # Nobody would begin them while the person waits.
            deadline = time.monotonic()
        return [self._answer_in_time(job, config, task, deadline) for job, task in zip(jobs, tasks, strict=True)]

    def _hinted(
        self, project: Project, engine: ChosenEngine, config: LabelConfig, task: Task, context: Context
    ) -> dict[str, Any]:
        """Segment what a smart rectangle marks, and carry it through the clip.

        The answer has the track where the page shows nothing of it yet; all of it is delivered as a prediction.
        """
        found = hints.hints(context, config, task)
        if not found:
            return {"result": []}
        base_id = hints.base_job(task, engine.model_version)
        base, result = self._known(base_id)
        told = hints.with_labels(found, result, config, task)
        own = task.data.get(INSTRUCTION_KEY)
        instruction = base.instruction if base else str(own or "")
        params = {"marks": told, "base_job_id": base.id if base else None, **engine.params}
        video = str(base.video if base else config.video_of(task.data) or "")
        if not video:
            raise TaskError(f"Task {task.id} has no video: its data lacks {_lacking(config, task)}.")
        request = JobRequest(
            "refine",
            project.id,
            task.id,
            video,
            instruction[:MAX_INSTRUCTION_LENGTH],
            "interactive",
            params,
            engine.model_version,
            subject=f"hints {hints.digest(told, base_id)}",
        )
        job, created = self.store.jobs.add_all([request])[0]
        if not created and job.state in ("failed", "cancelled"):
            job = self.store.jobs.retry(job.id)
        deadline = time.monotonic() + self.settings.interactive_wait_seconds
        if job.state == "queued" and not self.enqueue([job]):
            return {"result": []}
        key_frames = _key_frames(config, task)
        if key_frames is None or (job.state != "done" and not self._wait(job, deadline)):
            return {"result": []}
        result = self.store.jobs.result(job.id)
        labels = {hint["label"] for hint in told}
        result.tracks = [track for track in result.tracks if track.label in labels]
        rate = config.rate_for(task.data)
        shown = views.to_results(result, config.view, config, key_frames, frame_rate=rate, job_id=job.id, texts=False)
        shown = hints.empty_places(shown, task, config)
        return {"result": shown, "score": views.score(result), "model_version": result.model_version}

    def _known(self, job_id: str | None) -> tuple[Job | None, Result | None]:
        """A done job of the store and its tracks, where there is such a one."""
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
            request = self._request(project, engine, config, task, text, "interactive", params)
        except (TaskError, InstructionError) as error:
            self.store.jobs.add_all([self._rejected(project, engine, task, error, config, text)])
            raise
        job, created = self.store.jobs.add_all([request])[0]
        if created or job.state == "done":
            return job
        return self.store.jobs.retry(job.id, queue="interactive", params=params)

    def _answer_in_time(self, job: Job, config: LabelConfig, task: Task, deadline: float) -> dict[str, Any]:
        key_frames = _key_frames(config, task)
        if key_frames is None or (job.state != "done" and not self._wait(job, deadline)):
            return {"result": []}
        result = self.store.jobs.result(job.id)
        if any(index >= result.frame_count for index in key_frames):
            log.warning("task %s has key frames that its video has not", task.id)
            return {"result": []}
        _relabel(result, config, task, job.id)
        try:
            rate = config.rate_for(task.data)
            results = views.to_results(
                result, config.view, config, key_frames, frame_rate=rate, job_id=job.id, texts=False
            )
        except LabelConfigError as error:
            log.warning("job %s cannot be shown: %s", job.id, error)
            return {"result": []}
        delivery = self.store.deliveries.of_job(job.id)
        if delivery is not None and delivery.state == "pending":
            self.store.deliveries.sent(delivery.id, None)
        return {"result": results, "score": views.score(result), "model_version": result.model_version}

    def _wait(self, job: Job, deadline: float) -> bool:
        """Whether the job is done before the deadline."""
        if not self._waiting.acquire(blocking=False):
            log.warning("job %s is not waited for: too many requests wait already", job.id)
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
            self._waiting.release()

    def _train(self, request: WebhookRequest) -> dict[str, Any]:
        """Have the project trained: Label Studio's button Start Training. One that is under way is the one."""
        if request.project is None:
            return {"note": "The request names no project."}
        try:
            project = self.store.projects.of_label_studio(request.project.id)
            job, created = self.train(project)
        except TrajSegError as error:
            log.info("%s is ignored: %s", request.action, error)
            return {"note": error.message}
        return {"job": job.id, "created": created}

    def train(self, project: Project, params: FinetuneParams | None = None) -> tuple[Job, bool]:
        """The training of a project that waits or runs, or a new one; and whether it is new."""
        job, created = request_training(self.store, project, self.engines, params)
        if created:
            self.enqueue([job], new=True)
        return job, created

    def _note(self, request: WebhookRequest) -> bool:
        """Have the annotations read that it speaks of; the sweep finds those of which nobody speaks."""
        told = request.told_annotations
        if request.project is None or not told:
            return False
        try:
            project = self.store.projects.of_label_studio(request.project.id)
        except TrajSegError as error:
            log.info("%s is ignored: %s", request.action, error)
            return False
        tasks = [one.task for one in told if one.task is not None]
        tasks += self.store.corrections.tasks_of(project.id, [one.id for one in told if one.task is None])
        self.store.corrections.note(project.id, tasks)
        if tasks:
            self._on_notice()
        return bool(tasks)

    def _refresh(self, request: WebhookRequest) -> bool:
        assert request.project is not None
        try:
            project = self.store.projects.of_label_studio(request.project.id)
            parse(request.project.label_config)
        except TrajSegError as error:
            log.info("PROJECT_UPDATED of project %s is ignored: %s", request.project.id, error)
            return False
        self.store.projects.upsert(project.label_studio_id, "", request.project.label_config, stamp=project.stamp)
        return True


def _lacking(config: LabelConfig, task: Task) -> str:
    return ", ".join(f"`{path}`" for path in config.lacking(task.data) or [config.video_key])


def _check_text(name: str, key: str, value: object) -> None:
    """Raises TaskError for a value of task data that is there but is no text, or no whole text."""
    if value is not None and not isinstance(value, str):
        kind = {list: "a list", dict: "an object", bool: "true or false"}.get(type(value), "a number")
        raise TaskError(f"{name}: its `{key}` is {kind}, not text.", f"Write one text into `{key}` of the task's data.")
    if isinstance(value, str) and storable(value) != value:
        raise TaskError(
            f"{name}: its `{key}` has half of a character (a lone surrogate) or a NUL: {storable(value)[:80]!r}.",
            f"Write `{key}` of the task's data again: an emoji may have been cut in two.",
        )


def _nothing(tasks: Sequence[Task]) -> Answer:
    # An empty list of results makes the page show an error where a person waits.
    return [{"result": []} for _ in tasks]


def _relabel(result: Result, config: LabelConfig, task: Task, job_id: str) -> None:
    """Give the tracks labels that nothing in the task has: two objects under one label would become one.

    What is only predicted gives way where there are too few labels.
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
    """0-based indices of the frames on the task's page; none in the box view, None where not known."""
    if config.view == "box":
        return []
    frames, indices = config.frames_of(task.data), task.data.get("frame_index")
    if not isinstance(frames, list) or not isinstance(indices, list) or len(frames) != len(indices):
        return None
    if not indices or not all(isinstance(index, int) and index >= 0 for index in indices):
        return None
    return indices
