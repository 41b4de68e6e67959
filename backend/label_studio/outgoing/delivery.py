"""Delivery: a finished job's result becomes exactly one prediction in Label Studio, however often it is retried.

The order is: pictures and frame rate into the task, then the prediction, then the record in the store. Each result
carries the delivery's id, so a retry after a crash finds what was already posted. superseding.py handles the
predictions that were there before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from backend.addresses import video_name
from backend.http.media import media_url
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.forms import Prediction, Task
from backend.label_studio.outgoing import views, words
from backend.label_studio.outgoing.adoption import adopt_if_wanted
from backend.label_studio.outgoing.columns import OPEN_KEY, VIDEO_KEY, columns_of, opened_words
from backend.label_studio.outgoing.links import next_renewal
from backend.label_studio.outgoing.pictures import key_frame_path, shown_frames
from backend.label_studio.outgoing.states import STATE_KEY, is_typed
from backend.label_studio.outgoing.superseding import (
    aside_version,
    current_version,
    has_tracks,
    is_superseded,
    job_of,
    kind_of,
    make_current,
    meta_of,
    set_aside,
    supersede,
    takes_the_lead,
)
from backend.label_studio.refusals import MissingError, RefusedError, is_transient, retry_after
from backend.label_studio.setup import checks
from backend.settings import Settings
from backend.store import Delivery, Job, Store
from backend.store.versions import base_of
from label_config import LabelConfig, parse, with_labels
from trajseg.errors import InputError, TrajSegError
from trajseg.tracks import Result

log = logging.getLogger("trajseg.delivery")

FIRST_RETRY_SECONDS = 15.0
"""Pause after the first failure; it doubles with each further one."""
LONGEST_RETRY_SECONDS = 900.0
"""Longest pause: after a long outage, predictions arrive within a quarter of an hour of Label Studio's return."""

MOST_MORE_PICTURES = 12
"""Pictures of frames to review next that a task gets in addition to its usual number."""


class TaskGoneError(MissingError):
    """The task, or its whole project, has been deleted in Label Studio."""


def connected(settings: Settings, deadline: float | None = None) -> LabelStudioClient:
    """A client for the configured Label Studio. Raises LabelStudioError if there is no usable token.

    Args:
        deadline: seconds from now within which all requests of the client must finish; None: no limit.
    """
    return LabelStudioClient(
        settings.label_studio_url, settings.label_studio_api_key.get_secret_value(), deadline=deadline
    )


def deliver(store: Store, client: LabelStudioClient, settings: Settings, delivery: Delivery) -> TrajSegError | None:
    """Makes one delivery. Returns None if nothing is left to do, else the error, which is also recorded in the store.

    The caller has claimed it (`store.deliveries.claim`). While Label Studio is down or rejects the token, it stays
    pending. A delivery whose task has been deleted is dropped.
    """
    try:
        prediction_id = _post(store, client, settings, delivery)
    except TaskGoneError as error:
        log.info("job %s is not delivered: %s", delivery.job_id, error)
        store.deliveries.dropped(delivery.id, str(error))
        return None
    except TrajSegError as error:
        put_off(store, settings, delivery, error)
        return error
    except Exception as error:
        log.exception("job %s was not delivered", delivery.job_id)
        unforeseen = RefusedError(f"Delivery failed: {type(error).__name__}: {error}.", "See the log.")
        put_off(store, settings, delivery, unforeseen)
        return unforeseen
    store.deliveries.sent(delivery.id, prediction_id)
    log.info("job %s was delivered as prediction %s", delivery.job_id, prediction_id)
    adopt_if_wanted(store, client, settings, store.jobs.get(delivery.job_id))
    return None


def _post(store: Store, client: LabelStudioClient, settings: Settings, delivery: Delivery) -> int | None:
    """The id of the prediction; None if none is needed."""
    job, result = store.jobs.get(delivery.job_id), store.jobs.result(delivery.job_id)
    if job.task_id is None or job.project_id is None:
        raise InputError(
            f"Job {job.id} does not belong to a Label Studio task, so its result is not delivered.",
            "`trajseg export` or GET /jobs/ID/tracks gives the result.",
        )
    try:
        project_id = client.id_of(store.projects.get(job.project_id))
        project = client.project(project_id)
        config = _config_with_room(client, project_id, str(project["label_config"]), result)
        task = client.task(project_id, job.task_id)
    except MissingError as error:
        raise TaskGoneError(error.message, error.remedy, error.status) from error
    if is_typed(job) and (not any(track.present for track in result.tracks) or _is_in_use(task, job)):
        # The page that requested it already has the result, or only the state needs writing.
        return None
    present = client.predictions(task.id)
    leads = takes_the_lead(store, job, result, present)
    superseded = [one for one in present if leads and is_superseded(store, settings, job, result, one)]
    digest = views.tracks_digest(result)
    posted = [one.id for one in present if _written_by(one, delivery, result)]
    alike = [one for one in superseded if has_tracks(one, digest)]
    if not posted and alike:
        # Masks that someone may be painting on are left alone; only the texts change.
        posted = [one.id for one in alike]
        standing = job_of(store, alike[0])
        if standing is not None and standing.asked.earlier_job_id == job.id:
            # A later job has captioned these same tracks.
            return posted[0]
    elif posted:
        if _was_replaced(store, job, result, task, present, min(posted)):
            owner = store.projects.get(job.project_id)
            make_current(store, client, config, owner, task, min(posted), job, result)
        _name_version(store, client, job.project_id, project, result.model_version)
        _supersede_others(store, client, settings, job, task, superseded, min(posted))
        return min(posted)
    opened = store.tasks.is_open(job.project_id, job.task_id, settings.superseded_hours)
    changes = _task_data(settings, job, result, config, task, present, opened)
    indices = changes.get("frame_index", task.data.get("frame_index", []) if config.view == "mask" else [])
    rate = config.rate_for({**task.data, **changes})
    numbers, kind = views.frame_numbers(result, rate), kind_of(job)
    warnings = [*job.notes.sentences(result, numbers), *_rate_warnings(config, result)]
    if leads:
        changes |= columns_of(job, result, task, indices, numbers)
    results = views.to_results(
        result,
        config.view,
        config,
        indices,
        frame_rate=rate,
        job_id=job.id,
        delivery_id=delivery.id,
        digest=digest,
        warnings=warnings,
        about=" ".join([words.about(kind, result), *job.notes.filled_in(numbers)]),
    )
    wrong = checks.problems(results, config, len(indices), (result.width, result.height))
    if wrong:
        raise InputError(
            f"The prediction does not fit the project: {'; '.join(wrong[:5])}.",
            "Run `trajseg doctor --project N`: it says what is missing from the labelling configuration.",
        )
    client.update_task_data(project_id, task.id, changes)
    if not config.frames_key or config.frames_key in changes:
        # Recorded in the box view too: this is how deleted tasks are found.
        store.pictures.note(job.project_id, task.id, next_renewal(settings))
    version = result.model_version
    named: dict[str, Any] = {"score": _score(job, result), "model_version": version}
    if not leads:
        named = {"score": None, "model_version": aside_version(version, kind)}
    if posted:
        made = min(posted)
        client.update_prediction(made, result=results, **named)
    else:
        made = client.create_prediction(task.id, results, **named)
        # If two were posted at the same moment, the later one is deleted, whoever notices; nobody can have it open.
        made = _only_one(
            client, [one.id for one in client.predictions(task.id) if _written_by(one, delivery, result)] or [made]
        )
    _supersede_others(store, client, settings, job, task, superseded, made)
    if leads:
        _name_version(store, client, job.project_id, project, version)
        gone = {made, *(one.id for one in superseded)}
        set_aside(store, client, [one for one in present if one.model_version == version and one.id not in gone])
        # Written last, repeating what is there: a concurrent writer of other keys may have overwritten it.
        client.update_task_data(project_id, task.id, {**changes, OPEN_KEY: opened_words(made, kind)})
        if state := changes.get(STATE_KEY):
            store.tasks.settle(job.project_id, task.id, state)
            store.tasks.shown([(job.project_id, task.id)], state)
    return made


def _was_replaced(
    store: Store, job: Job, result: Result, task: Task, present: Sequence[Prediction], posted: int
) -> bool:
    """Whether an earlier delivery of this result, the prediction `posted`, should lead its task again and does not.

    It was superseded; or it stayed current beside the one to open, of a version that served until now.
    """
    assert job.project_id is not None
    current = [one.id for one in present if one.model_version == result.model_version]
    if not current:
        return True
    serves = store.versions.served_name(job.project_id, base_of(result.model_version))
    leads = posted in current and takes_the_lead(store, job, result, present)
    opened = task.data.get(OPEN_KEY) == opened_words(posted, kind_of(job))
    return result.model_version == serves and leads and not opened


def _name_version(
    store: Store, client: LabelStudioClient, project_id: int, project: Mapping[str, Any], version: str
) -> None:
    """Names the version that serves now as the project's in Label Studio, whose scores order the label stream.

    Another model's version, or none, is somebody's choice. A version is accepted there once it has a prediction.

    Args:
        project_id: the store's own.
        project: as Label Studio has it.
    """
    named = str(project.get("model_version") or "")
    serves = store.versions.served_name(project_id, base_of(version))
    if named == version or base_of(named) != base_of(version) or version != serves:
        return
    try:
        client.update_project(int(project["id"]), model_version=version)
    except RefusedError as error:
        log.info("project %s keeps the model version %s: %s", project["id"], named, error)


def _is_in_use(task: Task, job: Job) -> bool:
    """Whether a draft or an annotation has regions of this job: its suggestions were accepted on the page."""
    return any(
        meta_of(item).get("job_id") == job.id
        for held in (*task.drafts, *task.annotations)
        for item in held.get("result") or []
    )


def _supersede_others(
    store: Store,
    client: LabelStudioClient,
    settings: Settings,
    job: Job,
    task: Task,
    superseded: Sequence[Prediction],
    kept: int,
) -> None:
    assert job.project_id is not None
    supersede(store, client, settings, job.project_id, task, [one for one in superseded if one.id != kept])


def _rate_warnings(config: LabelConfig, result: Result) -> list[str]:
    """Warns if the configuration fixes a frame rate other than the video's."""
    fixed, duration = config.frame_rate, result.frame_count / result.fps
    if config.view != "box" or fixed is None or abs(fixed - result.fps) * duration <= 0.5:
        return []
    return [
        f"the editor counts {fixed:g} frames a second, but the video has {result.fps:.6g}: frame numbers differ. "
        f"Boxes are on the right frames. Use {config.video_line} in the labelling configuration."
    ]


def _score(job: Job, result: Result) -> float:
    """The model's confidence in the prediction, 0 to 1; Label Studio's uncertainty sampling takes the lowest first."""
    doubt = job.notes.doubt
    return views.score(result) if doubt is None else 1.0 - doubt


def _config_with_room(client: LabelStudioClient, project_id: int, xml: str, result: Result) -> LabelConfig:
    """The project's current labelling configuration, with labels added if the tracks need more."""
    config = parse(xml)
    # A second object of a label with its own instruction needs a label like it, not one of another instruction.
    by_label = dict(config.instructions)
    more = [track.label for track in result.tracks if track.label.rpartition("-")[0] in by_label]
    labels = [*config.labels, *(label for label in dict.fromkeys(more) if label not in config.labels)]
    if len(result.tracks) <= len(labels) == len(config.labels):
        return config
    number = 0
    while len(labels) < len(result.tracks):
        number += 1
        if f"track-{number}" not in labels:
            labels.append(f"track-{number}")
    xml = with_labels(xml, config.view, labels)
    client.update_project(project_id, label_config=xml)
    return parse(xml)


def _task_data(
    settings: Settings,
    job: Job,
    result: Result,
    config: LabelConfig,
    task: Task,
    predictions: Sequence[Prediction],
    opened: bool,
) -> dict[str, Any]:
    """The task data that the results need in order to be displayed."""
    changes: dict[str, Any] = {} if task.data.get(VIDEO_KEY) else {VIDEO_KEY: video_name(job.video)}
    if config.fps_key:
        changes[config.fps_key] = round(result.fps, 6)
    if config.view == "box":
        return changes
    frames, indices = _pictures(task.data, config)
    if not (opened or task.annotations or task.has_draft or any(one.result for one in predictions)):
        # Nothing refers to the existing pictures by position yet, and no open page will.
        frames, indices = [], []
    notes = job.notes
    wanted = [i for i in shown_frames(result, notes, settings.max_key_frames) if i not in indices]
    first = [i for i in notes.first_frames() if i in wanted][:MOST_MORE_PICTURES]
    others = [i for i in wanted if i not in first]
    room = max(settings.max_key_frames - len(frames) - len(first), 0)
    added = first + (others if len(others) <= room else [others[i * len(others) // room] for i in range(room)])
    # Sort by time if nothing refers to the old pictures.
    added = added if frames else sorted(added)
    changes[config.frames_key] = frames + [media_url(settings, key_frame_path(job.id, index)) for index in added]
    changes["frame_index"] = indices + added
    return changes


def _pictures(data: Mapping[str, Any], config: LabelConfig) -> tuple[list[str], list[int]]:
    frames, indices = config.frames_of(data), data.get("frame_index")
    if (
        isinstance(frames, list)
        and isinstance(indices, list)
        and len(frames) == len(indices)
        and all(isinstance(index, int) for index in indices)
    ):
        return list(frames), list(indices)
    return [], []


def _written_by(prediction: Prediction, delivery: Delivery, result: Result) -> bool:
    if not prediction.result:
        # Without tracks and text areas there is nothing to carry an id.
        return not result.tracks and current_version(prediction.model_version) == result.model_version
    return any(meta_of(item).get("delivery_id") == delivery.id for item in prediction.result)


def _only_one(client: LabelStudioClient, posted: Sequence[int]) -> int:
    for surplus in sorted(posted)[1:]:
        client.delete_prediction(surplus)
    return min(posted)


def put_off(store: Store, settings: Settings, delivery: Delivery, error: TrajSegError) -> None:
    tries = delivery.attempts + 1
    pause = min(FIRST_RETRY_SECONDS * 2 ** min(tries - 1, 20), LONGEST_RETRY_SECONDS)
    pause = max(pause, retry_after(error) or 0.0)
    retry_at: datetime | None = store.now() + timedelta(seconds=pause)
    if isinstance(error, InputError) or (not is_transient(error) and tries >= settings.delivery_attempts):
        # A dead letter: retried by a person, or after an outage of Label Studio.
        retry_at = None
    log.warning("job %s was not delivered (try %d): %s", delivery.job_id, tries, error)
    store.deliveries.failed(delivery.id, str(error), retry_at)
