"""Training requests, one per project at a time; after a promotion, tasks are pre-labelled again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy import func, select

from backend.engines import OfferedEngines
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
            .where(Job.project_id == project_id, Job.kind == "prelabel", Job.state == "done")
            .order_by(Job.finished_at)
            .limit(TASKS_AT_ONCE)
        )
        newest = {(job.task_id, job.instruction): job for job in done if job.task_id not in annotated}
    doubtful = sorted(newest.values(), key=lambda job: -(job.notes.doubt or 0.0))
    return tuple(
        JobRequest(
            "prelabel",
            project_id,
            job.task_id,
            job.video,
            job.instruction,
            "prelabel",
            PrelabelParams(engine=engine),
            version,
        )
        for job in doubtful
        if job.task_id is not None and job.model_version != version
    )
