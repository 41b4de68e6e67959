"""Superseding: what becomes of a prediction once a newer one stands in its place.

Label Studio refuses an annotation whose parent prediction is gone, and the annotator's strokes with it. It does not
say who has a task open. So a prediction keeps its id: what changes nothing but words is changed in place, and what
has other masks is posted beside the older prediction. That one gets another model version, which the label stream
passes over, and no score. It is deleted after `settings.superseded_hours`, unless something still refers to it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from backend.label_studio.client import LabelStudioClient, MissingError, Prediction, Task
from backend.settings import Settings
from backend.store import Job, Project, Store, UnknownJobError
from backend.store.kinds import KINDS
from backend.store.models import SupersededPrediction, now
from backend.store.versions import base_of
from trajseg.errors import LabelStudioError, UnknownProjectError
from trajseg.tracks import Result

log = logging.getLogger("trajseg.delivery")

STATE_KEY = "trajseg_state"
"""Key of task data that says how far the task is."""
EARLIER = ", earlier)"
"""End of the model version of a superseded prediction, as in "trajseg-tiny (prelabel, earlier)"."""


def earlier_version(model_version: str, kind: str) -> str:
    """The model version that a superseded prediction of this kind of job carries."""
    return f"{model_version} ({kind}{EARLIER}"


def current_version(model_version: str) -> str:
    """The model version that made a prediction, whether or not it is superseded."""
    return model_version.rsplit(" (", 1)[0] if model_version.endswith(EARLIER) else model_version


def meta_of(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `meta` of one result; empty where there is none."""
    meta = item.get("meta")
    return meta if isinstance(meta, Mapping) else {}


def job_id_of(prediction: Prediction) -> str | None:
    """The job that a prediction of ours comes from; None for anybody else's."""
    return next((str(meta_of(item)["job_id"]) for item in prediction.result if meta_of(item).get("job_id")), None)


def job_of(store: Store, prediction: Prediction) -> Job | None:
    """The job that a prediction of ours comes from, as far as the store still has it."""
    job_id = job_id_of(prediction)
    try:
        return store.jobs.get(job_id) if job_id else None
    except UnknownJobError:
        return None


def has_tracks(prediction: Prediction, digest: str) -> bool:
    """Whether a prediction shows the tracks with this digest (`views.tracks_digest`)."""
    return any(meta_of(item).get("tracks_digest") == digest for item in prediction.result)


def is_superseded(store: Store, settings: Settings, job: Job, result: Result, older: Prediction) -> bool:
    """Whether `result` takes the place of `older`: ours, of the same model version and the same instruction.

    With TRAJSEG_OLDER_PREDICTIONS=replace, also one of another version of the same base that was made before.
    """
    same = older.model_version == result.model_version
    before = job_of(store, older)
    if before is None or not (same or _replaced(settings, job, result, before, older)):
        return False
    # A new guess does not take the place of what a person's work went into.
    return before.instruction == job.instruction and not (job.kind == "prelabel" and before.kind != "prelabel")


def _replaced(settings: Settings, job: Job, result: Result, before: Job, older: Prediction) -> bool:
    """Whether a project's new version takes the place of an earlier one's prediction."""
    if settings.older_predictions != "replace" or older.model_version.endswith(EARLIER):
        return False
    # A job of an earlier version that arrives late replaces nothing newer.
    return base_of(older.model_version) == base_of(result.model_version) and before.created_at < job.created_at


def supersede(
    store: Store,
    client: LabelStudioClient,
    settings: Settings,
    project_id: int,
    task: Task,
    older: Sequence[Prediction],
) -> None:
    """Take predictions out of the label stream and out of the score's column; they go hours later.

    Args:
        project_id: the store's own id.
    """
    # Noted first: whoever dies in between leaves a prediction that is renamed at the next delivery or deleted.
    delete_at = now() + timedelta(hours=settings.superseded_hours)
    store.superseded.add(project_id, task.id, [one.id for one in older], delete_at)
    for one in older:
        job = job_of(store, one)
        version = earlier_version(current_version(one.model_version), job.kind if job else "prediction")
        client.update_prediction(one.id, model_version=version, score=None)


def withdraw(
    store: Store,
    client: LabelStudioClient,
    settings: Settings,
    project: Project,
    task: Task,
    refine_job_ids: Collection[str],
) -> None:
    """Take back what withdrawn corrections made: their refined predictions are superseded, the one before stands again.

    Args:
        refine_job_ids: the jobs that carried the withdrawn corrections to the other frames.
    """
    present = client.predictions(task.id)
    jobs = {one.id: job for one in present if (job := job_of(store, one)) is not None}
    withdrawn = [
        one
        for one in present
        if one.id in jobs and {jobs[one.id].id, jobs[one.id].asked.earlier_job_id or ""} & set(refine_job_ids)
    ]
    current = [one for one in withdrawn if not one.model_version.endswith(EARLIER)]
    if not current:
        return
    version = current[-1].model_version
    supersede(store, client, settings, project.id, task, current)
    left = [one for one in present if one not in withdrawn and one.id in jobs]
    if any(one.model_version == version for one in left):
        return
    before = [one for one in left if current_version(one.model_version) == version]
    if before:
        job = jobs[before[-1].id]
        score = None if job.notes.doubt is None else 1.0 - job.notes.doubt
        client.update_prediction(before[-1].id, model_version=version, score=score)
        if state := KINDS[job.kind].task_state:
            client.update_task_data(project.label_studio_id, task.id, {STATE_KEY: state})


def delete_superseded(store: Store, client: LabelStudioClient, settings: Settings) -> int:
    """Delete the superseded predictions whose time has come and that nothing refers to. Returns how many.

    One that is still in use is looked at again after as many hours. One that cannot be deleted does not keep the
    others from it. Raises LabelStudioError when Label Studio cannot be reached.
    """
    deleted = 0
    for row in store.superseded.due():
        try:
            deleted += _delete(store, client, settings, row)
        except MissingError:
            store.superseded.drop(row)
        except UnknownProjectError:
            store.superseded.drop(row)
        except LabelStudioError as error:
            log.warning("superseded prediction %d is deleted later: %s", row.prediction_id, error)
            raise
        except Exception:
            log.exception("superseded prediction %d is left for now", row.prediction_id)
            _postpone(store, settings, row)
    return deleted


def _delete(store: Store, client: LabelStudioClient, settings: Settings, row: SupersededPrediction) -> int:
    task = client.task(store.projects.get(row.project_id).label_studio_id, row.task_id)
    standing = {one.id: one for one in client.predictions(task.id)}
    prediction = standing.get(row.prediction_id)
    if prediction is None or not prediction.model_version.endswith(EARLIER):
        # Deleted by somebody else, or current again.
        store.superseded.drop(row)
        return 0
    if task.has_draft or any(one.get("parent_prediction") == row.prediction_id for one in task.annotations):
        _postpone(store, settings, row)
        return 0
    client.delete_prediction(row.prediction_id)
    store.superseded.drop(row)
    log.info("superseded prediction %d of task %d was deleted", row.prediction_id, row.task_id)
    return 1


def _postpone(store: Store, settings: Settings, row: SupersededPrediction) -> None:
    store.superseded.postpone(row.project_id, row.task_id, now() + timedelta(hours=settings.superseded_hours))
