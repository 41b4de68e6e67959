"""Bulk retry: everything that failed for one reason is done again, or delivered again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.store.failures import REJECTED, UNDELIVERED, FailureGroup
from trajseg.errors import InputError, TaskError

if TYPE_CHECKING:
    from backend.service.service import Service


@dataclass(frozen=True)
class BulkRetry:
    """What a bulk retry did.

    Attributes:
        jobs: that are queued again.
        deliveries: that are due again.
    """

    jobs: int = 0
    deliveries: int = 0


def retry_group(service: Service, key: str, project_id: int | None = None) -> tuple[FailureGroup, BulkRetry]:
    """Retry all failures of one reason (see `Failures.groups`); returns what they were, and what was done.

    Args:
        project_id: the store's own id; None: of all projects.

    Raises:
        InputError: nothing fails for that reason any more.
        TaskError: the jobs were rejected; their tasks or instructions have to change.
    """
    store = service.store
    group = store.failures.group(key, project_id)
    if group is None:
        raise InputError(
            "No job fails for this reason any more.", "They were retried already; load the list of failures again."
        )
    if group.trouble == REJECTED:
        raise TaskError(group.error, group.remedy)
    if group.trouble == UNDELIVERED:
        return group, BulkRetry(deliveries=store.failures.deliver_again(group.job_ids))
    jobs = store.failures.queue_again(group.job_ids)
    service.jobs.enqueue_many(jobs)
    return group, BulkRetry(jobs=len(jobs))
