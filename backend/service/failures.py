"""Whole groups of jobs: what failed for the same reason is retried, what waits for the same thing is cancelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.store.failures import REJECTED, UNDELIVERED, WAITING, FailureGroup
from trajseg.errors import InputError, TaskError

if TYPE_CHECKING:
    from backend.service.service import Service


@dataclass(frozen=True)
class BulkRetry:
    """What a bulk retry did.

    Attributes:
        jobs: queued again.
        deliveries: due again.
    """

    jobs: int = 0
    deliveries: int = 0


def retry_group(service: Service, key: str, project_id: int | None = None) -> tuple[FailureGroup, BulkRetry]:
    """Retries all failures with one reason (see `Failures.groups`); returns the group and what was done.

    Args:
        project_id: the store's own id; None: all projects.

    Raises:
        InputError: nothing fails for that reason any more, or the jobs only wait.
        TaskError: the jobs were rejected; their tasks or instructions have to change first.
    """
    store = service.store
    group = store.failures.group(key, project_id)
    if group is None or group.trouble == WAITING:
        raise InputError(
            "No job fails for this reason any more.", "They have already been retried; reload the list of failures."
        )
    if group.trouble == REJECTED:
        raise TaskError(group.error, group.remedy)
    job_ids = store.failures.job_ids(group, project_id)
    if group.trouble == UNDELIVERED:
        return group, BulkRetry(deliveries=store.failures.deliver_again(job_ids))
    jobs = store.failures.queue_again(job_ids)
    service.jobs.enqueue_many(jobs)
    return group, BulkRetry(jobs=len(jobs))


def cancel_group(service: Service, key: str, project_id: int | None = None) -> tuple[FailureGroup, int]:
    """Cancels all queued jobs that wait for one thing (see `Failures.waiting`); returns the group and how many.

    Args:
        project_id: the store's own id; None: all projects.

    Raises:
        InputError: no job waits for that any more.
    """
    group = service.store.failures.group(key, project_id)
    if group is None or group.trouble != WAITING:
        raise InputError("No queued job waits for this any more.", "Reload the list.")
    return group, len(service.jobs.cancel_waiting(service.store.failures.job_ids(group, project_id)))
