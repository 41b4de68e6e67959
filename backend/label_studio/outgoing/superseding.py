"""Superseding: what happens to a prediction once a newer one replaces it.

Label Studio rejects an annotation whose parent prediction has been deleted, and the annotator's strokes are lost. It
does not say who has a task open. So a prediction keeps its id: if only texts change it is updated in place; if masks
change, the new one is posted beside it. The older one gets another model version, which the label stream skips, and
no score. It is deleted after `settings.superseded_hours`, unless something still refers to it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.forms import Prediction, Task
from backend.label_studio.outgoing.columns import OPEN_KEY, columns_of, opened_words
from backend.label_studio.outgoing.states import STATE_KEY, is_typed
from backend.label_studio.outgoing.views import frame_numbers
from backend.label_studio.outgoing.views import score as view_score
from backend.label_studio.refusals import MissingError, OtherProjectError
from backend.settings import Settings
from backend.store import Job, Project, Store, UnknownJobError
from backend.store.kinds import KINDS
from backend.store.models import SupersededPrediction, now
from backend.store.versions import base_of
from label_config import LabelConfig, parse
from trajseg.errors import LabelStudioError, UnknownProjectError
from trajseg.tracks import Result

log = logging.getLogger("trajseg.delivery")

EARLIER = ", earlier)"
"""Suffix of the model version of a superseded prediction, as in "trajseg-tiny (prelabel, earlier)"."""
TYPED = "typed"
"""What a prediction whose instruction was typed on the page is called; others are named after their job kind."""
_WORDS = {"refine": "refined", "caption": "refined"}
"""By job kind, what its predictions are called if not by the kind's own name."""
_ASIDE = re.compile(rf" \((?:{'|'.join([*KINDS, *_WORDS.values(), TYPED, 'prediction'])})(?:, earlier)?\)$")


def earlier_version(model_version: str, kind: str) -> str:
    """The model version that a superseded prediction of this kind of job carries."""
    return f"{model_version} ({kind}{EARLIER}"


def aside_version(model_version: str, kind: str) -> str:
    """The model version of a prediction that has not been superseded but is not the one to open first."""
    return f"{model_version} ({kind})"


def current_version(model_version: str) -> str:
    """The model version that made a prediction, whether superseded, set aside or current."""
    return _ASIDE.sub("", model_version)


def kind_of(job: Job | None) -> str:
    """The kind of a prediction in one word: "prelabel", "refined" or "typed"."""
    if job is None:
        return "prediction"
    return TYPED if is_typed(job) else _WORDS.get(job.kind, job.kind)


def meta_of(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `meta` of one result; empty if there is none."""
    meta = item.get("meta")
    return meta if isinstance(meta, Mapping) else {}


def job_id_of(prediction: Prediction) -> str | None:
    """The job that a prediction of ours comes from; None for other predictions."""
    return next((str(meta_of(item)["job_id"]) for item in prediction.result if meta_of(item).get("job_id")), None)


def job_of(store: Store, prediction: Prediction) -> Job | None:
    """The job that a prediction of ours comes from, if the store still has it."""
    job_id = job_id_of(prediction)
    try:
        return store.jobs.get(job_id) if job_id else None
    except UnknownJobError:
        return None


def has_tracks(prediction: Prediction, digest: str) -> bool:
    """Whether a prediction shows the tracks with this digest (`views.tracks_digest`)."""
    return any(meta_of(item).get("tracks_digest") == digest for item in prediction.result)


def is_superseded(store: Store, settings: Settings, job: Job, result: Result, older: Prediction) -> bool:
    """Whether `result` replaces `older`: a prediction of ours with the same model version and instruction.

    With TRAJSEG_OLDER_PREDICTIONS=replace, also an earlier one by another version of the same base.
    """
    same = older.model_version == result.model_version
    before = job_of(store, older)
    if before is None or not (same or _replaced(settings, job, result, before, older)):
        return False
    if (before.project_id, before.task_id) != (job.project_id, job.task_id):
        # Somebody imported another task's prediction here.
        return False
    # A new guess does not replace a prediction that contains a person's work.
    return before.instruction == job.instruction and not (job.kind == "prelabel" and before.kind != "prelabel")


def _replaced(settings: Settings, job: Job, result: Result, before: Job, older: Prediction) -> bool:
    """Whether a project's new version replaces an earlier version's prediction."""
    if settings.older_predictions != "replace" or older.model_version.endswith(EARLIER):
        return False
    # A job of an earlier version that finishes late replaces nothing newer.
    return base_of(older.model_version) == base_of(result.model_version) and before.created_at < job.created_at


def takes_the_lead(store: Store, job: Job, result: Result, present: Sequence[Prediction]) -> bool:
    """Whether this job's prediction is the one to open; otherwise it is set aside next to the one that is.

    An answer to a typed instruction does not take the lead, nor does a new guess over one with a person's work in it.
    """
    leading = [job_of(store, one) for one in present if one.model_version == result.model_version]
    others = [one for one in leading if one is not None and one.id != job.id]
    if is_typed(job):
        return not any(not is_typed(one) for one in others)
    return job.kind != "prelabel" or all(one.kind == "prelabel" for one in others)


def set_aside(store: Store, client: LabelStudioClient, others: Sequence[Prediction]) -> None:
    """Renames predictions by kind so that only one leads the task; they lose their scores but stay."""
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
    """Takes predictions out of the label stream and the score column; they are deleted hours later.

    Args:
        project_id: the store's own id.
    """
    # Recorded first: after a crash in between, the prediction is renamed at the next delivery, or deleted.
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
    annotation_ids: Collection[int],
) -> None:
    """Undoes withdrawn corrections: their refined predictions are superseded, and the one before is current again.

    Args:
        annotation_ids: Label Studio's ids of the annotations that were deleted. What was refined from one of them in
            several rounds is all superseded.

    Raises LabelStudioError, and LabelConfigError if the project's configuration cannot be read.
    """
    present = client.predictions(task.id)
    jobs = {one.id: job for one in present if (job := job_of(store, one)) is not None}
    withdrawn = [
        one
        for one in present
        if one.id in jobs and store.corrections.annotation_behind(jobs[one.id].id) in annotation_ids
    ]
    current = [one for one in withdrawn if not one.model_version.endswith(EARLIER)]
    if not current:
        return
    version = current[-1].model_version
    supersede(store, client, settings, project.id, task, current)
    left = [one for one in present if one not in withdrawn and one.id in jobs]
    if any(one.model_version == version for one in left):
        return
    before = [one for one in left if base_of(current_version(one.model_version)) == base_of(version)]
    if before:
        job = jobs[before[-1].id]
        result, config = store.jobs.result(job.id), parse(str(client.project(project.label_studio_id)["label_config"]))
        make_current(store, client, config, project, task, before[-1].id, job, result)


def make_current(
    store: Store,
    client: LabelStudioClient,
    config: LabelConfig,
    project: Project,
    task: Task,
    prediction_id: int,
    job: Job,
    result: Result,
) -> None:
    """Undoes `supersede`: the prediction leads its task again, and the columns are about it."""
    score = view_score(result) if job.notes.doubt is None else 1.0 - job.notes.doubt
    client.update_prediction(prediction_id, model_version=result.model_version, score=score)
    indices = task.data.get("frame_index") if config.view == "mask" else None
    numbers = frame_numbers(result, config.rate_for(task.data))
    columns = columns_of(job, result, task, indices if isinstance(indices, list) else [], numbers)
    columns[OPEN_KEY] = opened_words(prediction_id, kind_of(job))
    if state := columns.get(STATE_KEY):
        store.tasks.settle(project.id, task.id, state)
    client.update_task_data(project.label_studio_id, task.id, columns)
    if state:
        store.tasks.shown([(project.id, task.id)], state)


def delete_superseded(store: Store, client: LabelStudioClient, settings: Settings) -> int:
    """Deletes superseded predictions that are due and that nothing refers to. Returns how many.

    One still in use is checked again after as many hours. One that cannot be deleted does not block the others.
    Raises LabelStudioError if Label Studio cannot be reached.
    """
    deleted = 0
    for row in store.superseded.due():
        try:
            deleted += _delete(store, client, settings, row)
        except MissingError:
            store.superseded.drop(row)
        except UnknownProjectError:
            store.superseded.drop(row)
        except OtherProjectError as error:
            log.warning("superseded prediction %d stays for now: %s", row.prediction_id, error)
            _postpone(store, settings, row)
        except LabelStudioError as error:
            log.warning("superseded prediction %d will be deleted later: %s", row.prediction_id, error)
            raise
        except Exception:
            log.exception("superseded prediction %d is skipped for now", row.prediction_id)
            _postpone(store, settings, row)
    return deleted


def _delete(store: Store, client: LabelStudioClient, settings: Settings, row: SupersededPrediction) -> int:
    task = client.task(client.id_of(store.projects.get(row.project_id)), row.task_id)
    standing = {one.id: one for one in client.predictions(task.id)}
    prediction = standing.get(row.prediction_id)
    if prediction is None or not prediction.model_version.endswith(EARLIER):
        # Already deleted elsewhere, or current again.
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
