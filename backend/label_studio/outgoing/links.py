"""Links to key frames in tasks: signed again before they expire, and gone with the task.

A task keeps the links that its delivery wrote, and may be opened months later, while a link that got into wrong hands
should expire. Label Studio passes nothing on from another server, and no request tells which task a person
opens. So half-way to their expiry the links are replaced in the task's data; nothing refers to them but by position.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from backend.http.media import renewed
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.refusals import MissingError
from backend.retention import drop_pictures
from backend.settings import Settings
from backend.store import Store, TaskPictures
from backend.store.models import now
from label_config import LabelConfig, parse
from trajseg.errors import LabelConfigError, LabelStudioError

log = logging.getLogger("trajseg.delivery")

TASKS_AT_ONCE = 5
"""Tasks in one round, so that deliveries do not wait for long: some 3000 in an hour."""
CLAIM_SECONDS = 600.0
"""A task that could not be looked at comes up again after so long."""
LOOK_AGAIN = timedelta(days=1)
"""How often a task that is missing is looked for, before its pictures are deleted."""


def next_renewal(settings: Settings) -> datetime:
    """When links that are signed now are to be signed again."""
    return now() + timedelta(hours=settings.media_link_hours / 2)


def renew_links(store: Store, client: LabelStudioClient, settings: Settings) -> int:
    """Sign the links of the tasks that are due again; returns how many tasks were changed.

    A task that Label Studio has no more loses its pictures after `settings.deleted_task_days`, and its jobs after
    `settings.job_days`, where they are set and nobody annotated it. One task that makes
    trouble does not keep the others from it. Raises LabelStudioError when Label Studio cannot be reached.
    """
    configs: dict[int, LabelConfig | None] = {}
    changed = 0
    for row in store.pictures.due(TASKS_AT_ONCE):
        if not store.pictures.claim(row, CLAIM_SECONDS):
            continue
        try:
            changed += _renew(store, client, settings, row, configs)
        except MissingError:
            _miss(store, settings, row)
        except LabelStudioError:
            raise
        except Exception:
            log.exception("the links of task %d are left for now", row.task_id)
    return changed


def _renew(
    store: Store,
    client: LabelStudioClient,
    settings: Settings,
    row: TaskPictures,
    configs: dict[int, LabelConfig | None],
) -> int:
    project_id = store.projects.get(row.project_id).label_studio_id
    if project_id not in configs:
        configs[project_id] = _config(client, project_id)
    config = configs[project_id]
    task = client.task(project_id, row.task_id)
    frames = config.frames_of(task.data) if config else None
    links = frames if isinstance(frames, list) else []
    new = [(renewed(settings, link) if isinstance(link, str) else None) or link for link in links]
    if config and config.frames_key and new != links:
        client.update_task_data(project_id, task.id, {config.frames_key: new})
    store.pictures.note(row.project_id, row.task_id, next_renewal(settings))
    return int(new != links)


def _config(client: LabelStudioClient, project_id: int) -> LabelConfig | None:
    try:
        return parse(str(client.project(project_id)["label_config"]))
    except LabelConfigError:
        # Changed into one that shows no pictures of ours.
        return None


def _miss(store: Store, settings: Settings, row: TaskPictures) -> None:
    missing = now() - store.pictures.miss(row, now() + LOOK_AGAIN)
    if missing < timedelta(days=settings.deleted_task_days):
        return
    drop_pictures(settings, store.pictures.jobs_of(row.project_id, row.task_id))
    if settings.job_days and missing < timedelta(days=settings.job_days):
        return
    jobs = store.retention.drop_task(row.project_id, row.task_id) if settings.job_days else []
    store.pictures.drop(row)
    log.info("task %d was deleted in Label Studio, and its pictures and %d jobs with it", row.task_id, len(jobs))
