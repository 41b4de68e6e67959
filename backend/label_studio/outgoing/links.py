"""Links to shown frames in tasks: re-signed before they expire, and removed with the task.

A task keeps the links that its delivery wrote and may be opened months later, yet a leaked link should expire. Label
Studio does not proxy other servers, and no request reveals which task a person opens. So halfway to their expiry the
links are replaced in the task's data; other data refers to them only by position.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from backend.http.media import renewed
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.refusals import MissingError, OtherProjectError
from backend.retention import drop_pictures
from backend.settings import Settings
from backend.store import Store, TaskPictures
from backend.store.models import now
from label_config import LabelConfig, parse
from trajseg.errors import LabelConfigError, LabelStudioError

log = logging.getLogger("trajseg.delivery")

TASKS_AT_ONCE = 5
"""Most tasks in one round, so that deliveries do not wait long: about 3000 an hour."""
CLAIM_SECONDS = 600.0
"""Retry interval for a task that could not be checked."""
LOOK_AGAIN = timedelta(days=1)
"""How often a missing task is looked up before its pictures are deleted."""


def next_renewal(settings: Settings) -> datetime:
    """When links that are signed now have to be signed again."""
    return now() + timedelta(hours=settings.media_link_hours / 2)


def renew_links(store: Store, client: LabelStudioClient, settings: Settings) -> int:
    """Re-signs the links of the tasks that are due; returns how many tasks were changed.

    A task deleted in Label Studio loses its pictures after `settings.deleted_task_days`, and its jobs after
    `settings.job_days`, if those are set and nobody annotated it. A failing task does not block the others. Raises
    LabelStudioError if Label Studio cannot be reached.
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
        except OtherProjectError as error:
            log.warning("the links of task %d are left as they are: %s", row.task_id, error)
        except LabelStudioError:
            raise
        except Exception:
            log.exception("the links of task %d are skipped for now", row.task_id)
    return changed


def _renew(
    store: Store,
    client: LabelStudioClient,
    settings: Settings,
    row: TaskPictures,
    configs: dict[int, LabelConfig | None],
) -> int:
    project_id = client.id_of(store.projects.get(row.project_id))
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
        # The new configuration shows none of our pictures.
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
    log.info("task %d was deleted in Label Studio; deleted its pictures and %d jobs", row.task_id, len(jobs))
