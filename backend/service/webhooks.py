"""Webhooks: Label Studio's events, which say that something may have changed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from backend.label_studio.incoming.payloads import WebhookRequest
from backend.service.jobs import JobControl
from backend.store import Store
from label_config import parse
from trajseg.errors import TrajSegError

log = logging.getLogger("trajseg.backend")

TRAINING_ACTIONS = ("START_TRAINING",)
CORRECTION_ACTIONS = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
PROJECT_ACTIONS = ("TASKS_CREATED", "TASKS_DELETED", "PROJECT_UPDATED")


class Webhooks:
    """Receives events.

    Args:
        on_notice: called when an event has named annotations to read.

    Attributes:
        counts: events received, by action; those that trajseg does not know under "other".
    """

    def __init__(self, store: Store, jobs: JobControl, on_notice: Callable[[], None] = lambda: None) -> None:
        self.store = store
        self.jobs = jobs
        self.counts: Counter[str] = Counter()
        self._on_notice = on_notice

    def receive(self, request: WebhookRequest) -> dict[str, Any] | None:
        """Act on an event; None for one that trajseg does not know.

        Webhooks are not signed, so they only say that something may have changed. The one thing taken from
        their body is a labelling configuration, for a project that is known and only if it can be filled:
        every /predict brings it again.
        """
        action = request.action
        if action not in TRAINING_ACTIONS + CORRECTION_ACTIONS + PROJECT_ACTIONS:
            self.counts["other"] += 1
            return None
        self.counts[action] += 1
        answer: dict[str, Any] = {"action": action}
        if action in TRAINING_ACTIONS:
            answer |= self._train(request)
        if action == "PROJECT_UPDATED" and request.project is not None:
            answer["refreshed"] = self._refresh(request)
        if action in CORRECTION_ACTIONS:
            answer["noted"] = self._note(request)
        return answer

    def _train(self, request: WebhookRequest) -> dict[str, Any]:
        """Train the project: Label Studio's button Start Training. A training under way is not started twice."""
        if request.project is None:
            return {"note": "The request names no project."}
        try:
            project = self.store.projects.of_label_studio(request.project.id)
            job, created = self.jobs.train(project)
        except TrajSegError as error:
            log.info("%s is ignored: %s", request.action, error)
            return {"note": error.message}
        return {"job": job.id, "created": created}

    def _note(self, request: WebhookRequest) -> bool:
        """Have the annotations read that the event names; the sweep finds those that no event names."""
        annotations = request.told_annotations
        if request.project is None or not annotations:
            return False
        try:
            project = self.store.projects.of_label_studio(request.project.id)
        except TrajSegError as error:
            log.info("%s is ignored: %s", request.action, error)
            return False
        tasks = [one.task for one in annotations if one.task is not None]
        tasks += self.store.corrections.tasks_of(project.id, [one.id for one in annotations if one.task is None])
        self.store.corrections.note(project.id, tasks)
        if tasks:
            self._on_notice()
        return bool(tasks)

    def _refresh(self, request: WebhookRequest) -> bool:
        assert request.project is not None
        try:
            project = self.store.projects.of_label_studio(request.project.id)
            parse(request.project.label_config)
        except TrajSegError as error:
            log.info("PROJECT_UPDATED of project %s is ignored: %s", request.project.id, error)
            return False
        self.store.projects.upsert(project.label_studio_id, "", request.project.label_config, stamp=project.stamp)
        return True
