"""A request for a job, and the key that merges equal requests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.store.kinds import check_queue, job_kind
from backend.store.models import Rejection, new_id, now
from backend.store.params import JobParams
from backend.store.reasons import bounded, reason_key


@dataclass(frozen=True)
class JobRequest:
    """A request for a job. Requests that differ only in queue, params, error, remedy and rejection are one job.

    Raises InputError for an unknown kind or queue, or params that the kind does not take.

    Args:
        kind: the name of a kind in backend.store.kinds.
        project_id: the store's own id of the project.
        task_id: Label Studio's id of the task; None for a job that does not come from Label Studio.
        video: as in the task: a URL or a path.
        queue: one of QUEUES in backend.store.kinds.
        params: the kind's own params, or a mapping to parse them from.
        model_version: the requested version; a done job carries the version that did it.
        error: why the request is invalid: the job is stored as rejected, for a person to see, and never runs.
        remedy: what to do about it.
        rejection: what has to change, if there is an error.
        subject: what the request is about beyond the task, such as one state of an annotation.
    """

    kind: str
    project_id: int | None
    task_id: int | None
    video: str
    instruction: str
    queue: str
    params: JobParams | Mapping[str, Any] = field(default_factory=dict)
    model_version: str = ""
    error: str = ""
    remedy: str = ""
    rejection: Rejection = "task"
    subject: str = ""

    def __post_init__(self) -> None:
        check_queue(self.queue)
        declared = job_kind(self.kind).params
        if not isinstance(self.params, declared):
            form = self.params.to_json() if isinstance(self.params, JobParams) else self.params
            object.__setattr__(self, "params", declared.read(form))

    @property
    def key(self) -> str:
        """The key shared by equal requests."""
        parts: list[object] = [
            self.project_id,
            self.task_id,
            self.kind,
            self.video,
            self.instruction,
            self.model_version,
        ]
        # Omitted if empty, so that jobs of earlier versions keep their keys.
        parts += [self.subject] if self.subject else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def row(self) -> dict[str, Any]:
        """The columns of the new job."""
        moment = now()
        return {
            "id": new_id(),
            "request_key": self.key,
            "kind": self.kind,
            "state": "rejected" if self.error else "queued",
            "queue": self.queue,
            "project_id": self.project_id,
            "task_id": self.task_id,
            "video": self.video,
            "instruction": self.instruction,
            "params": self.params.to_json() if isinstance(self.params, JobParams) else dict(self.params),
            "model_version": self.model_version,
            "error": bounded(self.error),
            "reason": reason_key(self.error),
            "remedy": self.remedy,
            "rejection": self.rejection if self.error else "",
            "created_at": moment,
            "finished_at": moment if self.error else None,
            "frames_done": 0,
            "frames_total": 0,
            "runs": 0,
        }
