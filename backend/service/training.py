"""Training requests, one per project at a time; after a promotion, tasks are pre-labelled again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy import func, select

from backend.engines import OfferedEngines
from backend.service.requests import compared_with
from backend.store import Job, JobRequest, Store
from backend.store.models import Annotation, Correction, Project
from backend.store.params import FinetuneParams, PrelabelParams
from backend.store.rows import UNFINISHED
from trajseg.errors import InputError

log = logging.getLogger("trajseg.backend")

TASKS_AT_ONCE = 100_000


def request_training(
    store: Store, project: Project, engines: OfferedEngines, params: FinetuneParams | None = None
) -> tuple[Job, bool]:
    """The project's queued or running training, or else a new one; also returns whether it is new.

    Raises InputError if the project's engine is no longer offered.
    """
    engine = engines.checked(project.engine)
    with store.database.read() as session:
        trainings = list(session.scalars(select(Job).where(Job.project_id == project.id, Job.kind == "finetune")))
    for job in trainings:
        if job.state in UNFINISHED:
            return job, False
    # Two requests at the same moment, after the same trainings, count as one.
    subject = f"training {len(trainings) + 1}"
    asked = (params or FinetuneParams()).model_copy(update={"engine": engine})
    request = JobRequest("finetune", project.id, None, "", "", "finetune", asked, engines.base(engine), subject=subject)
    return store.jobs.add_all([request])[0]


def corrected_tracks_since_training(store: Store, project_id: int) -> int:
    """Tracks that persons have corrected since the project's last training was requested."""
    last = select(func.max(Job.created_at)).where(Job.project_id == project_id, Job.kind == "finetune")
    with store.database.read() as session:
        since = session.scalar(last)
        changed = select(Correction.task_id, Correction.label).where(
            Correction.project_id == project_id, Correction.withdrawn_at.is_(None), Correction.kind != "unchanged"
        )
        if since is not None:
            changed = changed.where(Correction.when > since)
        return session.scalar(select(func.count()).select_from(changed.distinct().subquery())) or 0


def due_trainings(store: Store, engines: OfferedEngines, after: int) -> Callable[[], list[Job]]:
    """For the reconciler: requests training for projects with `after` newly corrected tracks; 0 switches this off."""

    def request() -> list[Job]:
        if not after:
            return []
        with store.database.read() as session:
            projects = list(session.scalars(select(Project)))
        made = []
        for project in projects:
            if corrected_tracks_since_training(store, project.id) < after:
                continue
            try:
                engines.check_trainable(project.engine)
                job, created = request_training(store, project, engines)
            except InputError as error:
                log.info("project %d is not trained: %s", project.label_studio_id, error)
                continue
            if created:
                made.append(job)
        return made

    return request


def relabelling(store: Store, project_id: int, version: str, engine: str = "") -> tuple[JobRequest, ...]:
    """Prelabel requests by a new version for the unannotated tasks, the most doubtful first.

    They repeat each task's newest prediction, and the newest for each instruction typed on its page. What the version
    has done already is requested as well, and is the same job.

    Args:
        engine: the engine of that version, as named in job params.
    """
    with store.database.read() as session:
        annotated = set(
            session.scalars(
                select(Annotation.task_id).where(Annotation.project_id == project_id, Annotation.withdrawn_at.is_(None))
            )
        )
        done = session.scalars(
            select(Job)
            .where(
                Job.project_id == project_id,
                Job.kind == "prelabel",
                Job.state == "done",
                Job.task_id.is_not(None),
            )
            .order_by(Job.finished_at)
            .limit(TASKS_AT_ONCE)
        )
        # A task has one instruction of its own; an earlier one was replaced in the task's data.
        newest = {
            (job.task_id, job.instruction if _asked(job).typed else ""): job
            for job in done
            if job.task_id not in annotated
        }
    doubtful = sorted(newest.values(), key=lambda job: -(job.notes.doubt or 0.0))
    return tuple(_again(job, version, engine) for job in doubtful)


def _again(job: Job, version: str, engine: str) -> JobRequest:
    """The request of a done prelabel job, for another version."""
    # The page that waited for the first answer does not wait for this one.
    params = _asked(job).model_copy(update={"engine": engine, "answer_until": None})
    request = JobRequest(
        "prelabel", job.project_id, job.task_id, job.video, job.instruction, "prelabel", params, version
    )
    return compared_with(request, params.second) if params.second else request


def _asked(job: Job) -> PrelabelParams:
    return PrelabelParams.read(job.params)
