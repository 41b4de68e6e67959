"""Superseding: what becomes of a prediction once a newer one stands in its place.

Label Studio refuses an annotation whose parent prediction is gone, and the annotator's strokes with it. It does not
say who has a task open. So a prediction keeps its id: what changes nothing but words is changed in place, and what
has other masks is posted beside the older prediction. That one gets another model version, which the label stream
passes over, and no score. It is deleted after `settings.superseded_hours`, unless something still refers to it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from backend.label_studio.client import LabelStudioClient, Prediction, Task
from backend.label_studio.outgoing.states import STATE_KEY, is_typed, settled_state
from backend.label_studio.refusals import MissingError
from backend.settings import Settings
from backend.store import Job, Project, Store, UnknownJobError
from backend.store.kinds import KINDS
from backend.store.models import SupersededPrediction, now
from backend.store.versions import base_of
from trajseg.errors import LabelStudioError, UnknownProjectError
from trajseg.tracks import Result

log = logging.getLogger("trajseg.delivery")

EARLIER = ", earlier)"
"""End of the model version of a superseded prediction, as in "trajseg-tiny (prelabel, earlier)"."""
TYPED = "typed"
"""Word for a prediction whose sentence was typed in the page, beside the names of job kinds."""
_WORDS = {"refine": "refined", "caption": "refined"}
"""By kind of job, what its predictions are called where that is not the kind's own name."""
_ASIDE = re.compile(rf" \((?:{'|'.join([*KINDS, *_WORDS.values(), TYPED, 'prediction'])})(?:, earlier)?\)$")


def earlier_version(model_version: str, kind: str) -> str:
    """The model version that a superseded prediction of this kind of job carries."""
    return f"{model_version} ({kind}{EARLIER}"


def aside_version(model_version: str, kind: str) -> str:
    """The model version of a prediction that is not the one to open first, though nothing has replaced it."""
    return f"{model_version} ({kind})"


def current_version(model_version: str) -> str:
    """The model version that made a prediction, whether it is superseded, set aside, or neither."""
    return _ASIDE.sub("", model_version)


def kind_of(job: Job | None) -> str:
    """What a prediction is, in a word: "prelabel", "refined" or "typed"."""
    if job is None:
        return "prediction"
    return TYPED if is_typed(job) else _WORDS.get(job.kind, job.kind)


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


def takes_the_lead(store: Store, job: Job, result: Result, present: Sequence[Prediction]) -> bool:
    """Whether this job's prediction is the one to open; else it is set aside, beside the one that is.

    What was typed answers a question, and a new guess is worth less than what a person's work went into.
    """
    leading = [job_of(store, one) for one in present if one.model_version == result.model_version]
    others = [one for one in leading if one is not None and one.id != job.id]
    if is_typed(job):
        return not any(not is_typed(one) for one in others)
    return job.kind != "prelabel" or all(one.kind == "prelabel" for one in others)


def set_aside(store: Store, client: LabelStudioClient, others: Sequence[Prediction]) -> None:
    """Name predictions by what they are, so that one alone leads the task; they lose their scores, and stay."""
    for one in others:
        client.update_prediction(
            one.id, model_version=aside_version(one.model_version, kind_of(job_of(store, one))), score=None
        )


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
        version = earlier_version(current_version(one.model_version), kind_of(job))
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
        if state := settled_state(job):
            store.tasks.settle(project.id, task.id, state)
            client.update_task_data(project.label_studio_id, task.id, {STATE_KEY: state})
            store.tasks.shown([(project.id, task.id)], state)


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
    opened = store.tasks.is_open(row.project_id, row.task_id, settings.superseded_hours)
    parents = {one.get("parent_prediction") for one in task.annotations}
    if opened or task.has_draft or row.prediction_id in parents:
        _postpone(store, settings, row)
        return 0
    client.delete_prediction(row.prediction_id)
    store.superseded.drop(row)
    log.info("superseded prediction %d of task %d was deleted", row.prediction_id, row.task_id)
    return 1


def _postpone(store: Store, settings: Settings, row: SupersededPrediction) -> None:
    store.superseded.postpone(row.project_id, row.task_id, now() + timedelta(hours=settings.superseded_hours))
