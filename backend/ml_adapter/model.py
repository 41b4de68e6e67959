"""TrajSeg as a LabelStudioMLBase of label-studio-ml 2.x, doing what the backend's own routes do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from label_studio_ml.exceptions import AnswerException
from label_studio_ml.model import LabelStudioMLBase

from backend.http.label_studio import read
from backend.label_studio.incoming.payloads import PredictRequest, ProjectReference, WebhookRequest
from backend.queue import JobQueue
from backend.service.service import Service
from backend.settings import Settings
from backend.store import Store
from trajseg.errors import InputError


@cache
def shared_service() -> Service:
    """The service of this process, from the environment; the store is migrated when it is first used."""
    settings = Settings()
    store = Store(settings.store_url)
    store.migrate()
    return Service(settings, store, JobQueue(settings.redis_url, settings.job_timeout_seconds))


class TrajSeg(LabelStudioMLBase):
    """The model that label-studio-ml makes anew for each request; the service behind it stays.

    What that host keeps from us: the time that Label Studio adds to a project's id, and all webhooks but its
    own TRAIN_EVENTS. Jobs, results and deliveries are the same; a worker and a reconciler must run as ever.
    """

    def setup(self) -> None:
        """Tell the model version, and note the project and its labelling configuration."""
        service = shared_service()
        self.set("model_version", service.model_version)
        config = self.get("label_config")
        if self.project_id and config:
            reference = ProjectReference.read(self.project_id)
            service.store.upsert_project(reference.label_studio_id, "", config)

    def set_extra_params(self, extra_params: object) -> None:
        """Dropped: trajseg has none, and the host's cache cannot hold what Label Studio sends."""

    def predict(
        self, tasks: list[dict[str, Any]], context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """One answer a task for what a person typed, none for tasks that are labelled beforehand."""
        body = {
            "tasks": tasks,
            "project": self.project_id,
            "label_config": self.get("label_config") or "",
            "params": {"context": context},
        }
        try:
            return shared_service().predict(read(PredictRequest, body))
        except InputError as error:
            told = {"error": error.message, "remedy": error.remedy}
            raise AnswerException(400, error.message, told) from error

    def fit(self, event: str, data: Mapping[str, Any], **kwargs: Any) -> dict[str, Any] | None:
        """Take note of an event, as the route /webhook does."""
        return shared_service().hint(read(WebhookRequest, {**data, "action": event}))
