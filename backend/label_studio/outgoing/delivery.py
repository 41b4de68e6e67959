"""Delivery: a done job's result becomes one prediction in Label Studio, however often it is tried.

The order is: pictures and frame rate into the task, then the prediction, then the mark in the store. Each
result carries the delivery's id, so whoever tries again after a crash finds what was posted. What becomes of the
predictions that were there before is in superseding.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from backend.addresses import video_name
from backend.http.media import media_url
from backend.label_studio.client import LabelStudioClient, Prediction, Task
from backend.label_studio.outgoing import views, words
from backend.label_studio.outgoing.adoption import adopt_if_wanted
from backend.label_studio.outgoing.links import next_renewal
from backend.label_studio.outgoing.pictures import key_frame_path, shown_frames
from backend.label_studio.outgoing.states import STATE_KEY, is_typed, settled_state
from backend.label_studio.outgoing.superseding import (
    aside_version,
    current_version,
    has_tracks,
    is_superseded,
    job_of,
    kind_of,
    meta_of,
    set_aside,
    supersede,
    takes_the_lead,
)
from backend.label_studio.refusals import MissingError, RefusedError, is_transient, retry_after
from backend.label_studio.setup import checks
from backend.settings import Settings
from backend.store import Delivery, Job, Store
from label_config import LabelConfig, parse, with_labels
from trajseg.errors import InputError, TrajSegError
from trajseg.tracks import Result

log = logging.getLogger("trajseg.delivery")

FIRST_RETRY_SECONDS = 15.0
"""Pause after the first failure; it doubles with each further one."""
LONGEST_RETRY_SECONDS = 900.0
"""So a Label Studio that was down over night gets its predictions a quarter of an hour after it is back."""

REVIEW_KEY, DOUBT_KEY, WARNINGS_KEY = "trajseg_review", "trajseg_doubt", "trajseg_warnings"
VIDEO_KEY, OPEN_KEY = "trajseg_video", "trajseg_open"
"""Keys of task data that trajseg writes for the Data Manager's columns."""
LONGEST_COLUMN = 500
"""Characters of one column's text."""
MOST_MORE_PICTURES = 12
"""Pictures of frames to be looked at next that a task gets although it has as many as it should."""


class TaskGoneError(MissingError):
    """The task, or its whole project, was deleted in Label Studio."""


def connected(settings: Settings, deadline: float | None = None) -> LabelStudioClient:
    """The client that the settings describe. Raises LabelStudioError when there is no usable token.

    Args:
        deadline: seconds from now on in which all that the client is used for must be done; None: no limit.
    """
    return LabelStudioClient(
        settings.label_studio_url, settings.label_studio_api_key.get_secret_value(), deadline=deadline
    )


def deliver(store: Store, client: LabelStudioClient, settings: Settings, delivery: Delivery) -> TrajSegError | None:
    """Makes one delivery. Returns None when nothing is left to do, else why it has not arrived; the store says so too.

    The caller has claimed it (`store.deliveries.claim`). Label Studio being down, or refusing the token, leaves it
    pending for as long as that lasts. One whose task was deleted there is dropped: nobody misses it.
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
    """The id of the prediction; None where none is needed."""
    job, result = store.jobs.get(delivery.job_id), store.jobs.result(delivery.job_id)
    if job.task_id is None or job.project_id is None:
        raise InputError(
            f"Job {job.id} does not come from a Label Studio task, so its result is not delivered.",
            "`trajseg export` or GET /jobs/ID/tracks gives the result.",
        )
    project_id = store.projects.get(job.project_id).label_studio_id
    try:
        config = _config_with_room(client, project_id, result)
        task = client.task(project_id, job.task_id)
    except MissingError as error:
        raise TaskGoneError(error.message, error.remedy, error.status) from error
    if is_typed(job) and (not any(track.present for track in result.tracks) or _is_in_use(task, job)):
        # The page that asked has it, or there is nothing but the state to tell.
        return None
    present = client.predictions(task.id)
    leads = takes_the_lead(store, job, result, present)
    superseded = [one for one in present if leads and is_superseded(store, settings, job, result, one)]
    digest = views.tracks_digest(result)
    posted = [one.id for one in present if _written_by(one, delivery, result)]
    alike = [one for one in superseded if has_tracks(one, digest)]
    if not posted and alike:
        # Masks that somebody may be painting on stay as they are; only the words change.
        posted = [one.id for one in alike]
        standing = job_of(store, alike[0])
        if standing is not None and standing.asked.earlier_job_id == job.id:
            # A later job has described these very tracks.
            return posted[0]
    elif posted:
        _make_current(client, job, result, present, min(posted))
        _supersede_others(store, client, settings, job, task, superseded, min(posted))
        return min(posted)
    opened = store.tasks.is_open(job.project_id, job.task_id, settings.superseded_hours)
    changes = _task_data(settings, job, result, config, task, present, opened)
    indices = changes.get("frame_index", task.data.get("frame_index", []) if config.view == "mask" else [])
    rate = config.rate_for({**task.data, **changes})
    numbers, kind = views.frame_numbers(result, rate), kind_of(job)
    warnings = [*job.notes.sentences(result), *_rate_warnings(config, result)]
    if leads:
        changes |= _columns(job, result, task, indices, numbers)
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
        about=words.about(kind, result),
    )
    wrong = checks.problems(results, config, len(indices), (result.width, result.height))
    if wrong:
        raise InputError(
            f"The prediction does not fit the project: {'; '.join(wrong[:5])}.",
            "Run `trajseg doctor --project N`: it names what the labelling configuration lacks.",
        )
    client.update_task_data(project_id, task.id, changes)
    if not config.frames_key or config.frames_key in changes:
        # Noted in the box view too: a task that is deleted is found by this.
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
        # Of two that were posted at the same moment the later one goes, whoever looks; nobody can have it open.
        made = _only_one(
            client, [one.id for one in client.predictions(task.id) if _written_by(one, delivery, result)] or [made]
        )
    _supersede_others(store, client, settings, job, task, superseded, made)
    if leads:
        gone = {made, *(one.id for one in superseded)}
        set_aside(store, client, [one for one in present if one.model_version == version and one.id not in gone])
        # Written last, and what is there already once more: whoever wrote other keys meanwhile may have taken it away.
        client.update_task_data(project_id, task.id, {**changes, OPEN_KEY: f"#{made} ({kind})"})
        if state := changes.get(STATE_KEY):
            store.tasks.settle(job.project_id, task.id, state)
            store.tasks.shown([(job.project_id, task.id)], state)
    return made


def _is_in_use(task: Task, job: Job) -> bool:
    """Whether a draft or an annotation has regions of this job: its suggestions were accepted in the page."""
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


def _make_current(
    client: LabelStudioClient, job: Job, result: Result, present: Sequence[Prediction], prediction_id: int
) -> None:
    """Let a superseded prediction that is delivered once more stand again, unless another one does."""
    if not any(one.model_version == result.model_version for one in present):
        client.update_prediction(prediction_id, model_version=result.model_version, score=_score(job, result))


def _rate_warnings(config: LabelConfig, result: Result) -> list[str]:
    """What a person should know where the configuration fixes another frame rate than the video has."""
    fixed, duration = config.frame_rate, result.frame_count / result.fps
    if config.view != "box" or fixed is None or abs(fixed - result.fps) * duration <= 0.5:
        return []
    return [
        f"the editor counts {fixed:g} frames a second, the video has {result.fps:.6g}: numbers and frames differ. "
        f"Boxes are on the right frames. Use {config.video_line} in the labelling configuration."
    ]


def _score(job: Job, result: Result) -> float:
    """How sure the prediction is, 0 to 1: Label Studio's uncertainty sampling takes the lowest first."""
    doubt = job.notes.doubt
    return views.score(result) if doubt is None else 1.0 - doubt


def _config_with_room(client: LabelStudioClient, project_id: int, result: Result) -> LabelConfig:
    """The project's labelling configuration as it is now, with labels added when the tracks need more."""
    xml = str(client.project(project_id)["label_config"])
    config = parse(xml)
    # A second object of a label that has an instruction of its own needs a label like it, not that of another one.
    said = dict(config.instructions)
    more = [track.label for track in result.tracks if track.label.rpartition("-")[0] in said]
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
    """What the task's data must say for the results to be shown."""
    changes: dict[str, Any] = {} if task.data.get(VIDEO_KEY) else {VIDEO_KEY: video_name(job.video)}
    if config.fps_key:
        changes[config.fps_key] = round(result.fps, 6)
    if config.view == "box":
        return changes
    frames, indices = _pictures(task.data, config)
    if not (opened or task.annotations or task.has_draft or any(one.result for one in predictions)):
        # Nothing refers to the pictures that are there by position yet, and no open page will.
        frames, indices = [], []
    notes = job.notes
    wanted = [i for i in shown_frames(result, notes, settings.max_key_frames) if i not in indices]
    first = [i for i in notes.first_frames() if i in wanted][:MOST_MORE_PICTURES]
    others = [i for i in wanted if i not in first]
    room = max(settings.max_key_frames - len(frames) - len(first), 0)
    added = first + (others if len(others) <= room else [others[i * len(others) // room] for i in range(room)])
    # New pictures are in the order of time where nothing refers to the old ones.
    added = added if frames else sorted(added)
    changes[config.frames_key] = frames + [media_url(settings, key_frame_path(job.id, index)) for index in added]
    changes["frame_index"] = indices + added
    return changes


def _columns(
    job: Job, result: Result, task: Task, indices: Sequence[int], numbers: Callable[[int], int]
) -> dict[str, Any]:
    """What the Data Manager's columns say of the task; see docs/correction-in-label-studio.md.

    Args:
        indices: 0-based frames of the pictures; empty in the box view.
        numbers: gives the number of a 0-based frame in Label Studio's video.
    """
    notes = job.notes
    columns: dict[str, Any] = {}
    if state := settled_state(job, result):
        columns[STATE_KEY] = state
    if notes.doubt is not None:
        columns[DOUBT_KEY] = round(notes.doubt, 3)
        columns[REVIEW_KEY] = " | ".join(
            f"{track.label}: "
            + "; ".join(f"{_place(frame.index, indices, numbers)} {frame.reason}" for frame in track.frames)
            for track in notes.review
            if track.frames
        )[:LONGEST_COLUMN]
    # An empty text takes the place of an older warning, but makes no column of its own.
    warnings = " | ".join(notes.sentences(result))[:LONGEST_COLUMN]
    if warnings or WARNINGS_KEY in task.data:
        columns[WARNINGS_KEY] = warnings
    return columns


def _place(index: int, indices: Sequence[int], numbers: Callable[[int], int]) -> str:
    """Where a person finds a frame: "picture 5 (frame 13)", or "frame 13" where no picture shows it."""
    frame = f"frame {numbers(index)}"
    return f"picture {list(indices).index(index) + 1} ({frame})" if index in indices else frame


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
        # Without tracks and without text areas there is nothing that could carry an id.
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
        # A dead letter: it waits for a person, or for Label Studio to have been away.
        retry_at = None
    log.warning("job %s was not delivered (try %d): %s", delivery.job_id, tries, error)
    store.deliveries.failed(delivery.id, str(error), retry_at)
