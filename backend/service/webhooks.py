"""Webhooks: Label Studio's events, which say that something may have changed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from backend.label_studio.incoming.payloads import WebhookRequest
from backend.service.jobs import JobControl
from backend.store import Store
from trajseg.errors import TrajSegError

log = logging.getLogger("trajseg.backend")

TRAINING_ACTIONS = ("START_TRAINING",)
CORRECTION_ACTIONS = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
UNREAD_ACTIONS = ("TASKS_CREATED", "TASKS_DELETED")
"""Known events that need no action."""
PROJECT_ACTIONS = (*UNREAD_ACTIONS, "PROJECT_UPDATED")

OnNotice = Callable[[int, bool], None]


class Webhooks:
    """Receives events.

    Args:
        on_notice: called when an event says that something changed in a project (the store's id), and whether that is
            its labelling configuration.

    Attributes:
        counts: events received, by action; unknown ones under "other".
    """

    def __init__(self, store: Store, jobs: JobControl, on_notice: OnNotice = lambda *_: None) -> None:
        self.store = store
        self.jobs = jobs
        self.counts: Counter[str] = Counter()
        self._on_notice = on_notice

    def receive(self, request: WebhookRequest) -> dict[str, Any] | None:
        """Acts on an event; returns None for an unknown one.

        Events are unauthenticated claims, so they change nothing by themselves: a known project is looked up in Label
        Studio, once however many events name it. Only Start Training is acted on directly, one training at a time.
        """
        action = request.action
        if action not in TRAINING_ACTIONS + CORRECTION_ACTIONS + PROJECT_ACTIONS:
            self.counts["other"] += 1
            return None
        self.counts[action] += 1
        answer: dict[str, Any] = {"action": action}
        if action in TRAINING_ACTIONS:
            answer |= self._train(request)
        else:
            answer["noted"] = self._note(request)
        return answer

    def _train(self, request: WebhookRequest) -> dict[str, Any]:
        """Trains the project (Label Studio's button Start Training). A running training is not started twice."""
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
        """Schedules a look at the project; the sweep finds changes that no event names."""
        if request.project is None or request.action in UNREAD_ACTIONS:
            return False
        try:
            project = self.store.projects.of_label_studio(request.project.id)
        except TrajSegError as error:
            log.info("%s is ignored: %s", request.action, error)
            return False
        self._on_notice(project.id, request.action == "PROJECT_UPDATED")
        return True
