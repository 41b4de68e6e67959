"""TrajSeg as a LabelStudioMLBase of label-studio-ml 2.x, equivalent to the backend's own routes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from label_studio_ml.exceptions import AnswerException
from label_studio_ml.model import LabelStudioMLBase

from backend.composition import Backend, compose
from backend.http.label_studio import read
from backend.label_studio.incoming.payloads import PredictRequest, ProjectReference, WebhookRequest
from trajseg.errors import InputError, UnknownProjectError
from trajseg.variables import log_unknown_variables


@cache
def shared_backend() -> Backend:
    """The backend of this process, from the environment; the store is migrated on first use."""
    log_unknown_variables(logging.getLogger("trajseg.backend"))
    return compose()


class TrajSeg(LabelStudioMLBase):  # type: ignore[misc]
    """The model that label-studio-ml constructs for each request; all share one backend.

    The host withholds two things: the creation time that Label Studio appends to a project's id, and all webhooks but
    its own TRAIN_EVENTS. Jobs, results, deliveries and corrections are the same; a worker must run as usual.
    """

    def setup(self) -> None:
        """Set the model version, and record a new project with its labelling configuration.

        The host constructs a model for webhooks too, with the configuration that their unknown sender claims: a known
        project keeps its own until a request for predictions brings another.
        """
        service = shared_backend().service
        self.set("model_version", service.model_version)
        config = self.get("label_config")
        if self.project_id and config:
            projects, number = service.store.projects, ProjectReference.read(self.project_id).label_studio_id
            try:
                projects.of_label_studio(number)
            except UnknownProjectError:
                projects.upsert(number, "", config)

    def set_extra_params(self, extra_params: object) -> None:
        """Ignored: trajseg has none, and the host's cache cannot hold what Label Studio sends."""

    def predict(
        self, tasks: list[dict[str, Any]], context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """One answer per task for an interactive request; none for a batch, whose results are delivered later."""
        body = {
            "tasks": tasks,
            "project": self.project_id,
            "label_config": self.get("label_config") or "",
            "params": {"context": context},
        }
        try:
            return shared_backend().service.predict(read(PredictRequest, body))
        except InputError as error:
            form = {"error": error.message, "remedy": error.remedy}
            raise AnswerException(400, error.message, form) from error

    def fit(self, event: str, data: Mapping[str, Any], **kwargs: Any) -> dict[str, Any] | None:
        """Handles an event as the route /webhook does."""
        return shared_backend().service.webhooks.receive(read(WebhookRequest, {**data, "action": event}))
