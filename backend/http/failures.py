"""Failures over HTTP: what failed or waits, grouped by reason; a group is retried or cancelled as a whole."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, current_app, jsonify

from backend.http import auth
from backend.http.jobs import number_argument
from backend.service.failures import cancel_group, retry_group
from backend.service.service import Service
from backend.store.failures import FailureGroup

blueprint = Blueprint("failures", __name__)
blueprint.before_request(auth.refuse_without_token)


@blueprint.get("/failures")
def failures() -> Response:
    """Failures and postponed jobs by reason, the 200 largest groups each; `?project=` (Label Studio's id) filters."""
    service = _service()
    project_id = _project_id(service)
    groups, waiting = service.store.failures.groups(project_id), service.store.failures.waiting(project_id)
    return jsonify(
        failures=[_form(service, group) for group in groups], waiting=[_form(service, group) for group in waiting]
    )


@blueprint.post("/failures/<key>/retry")
def retry(key: str) -> Response:
    """Retries everything that failed for one reason: jobs are queued, results delivered again; `?project=` as above."""
    service = _service()
    group, did = retry_group(service, key, _project_id(service))
    return jsonify(key=group.key, jobs=did.jobs, deliveries=did.deliveries)


@blueprint.post("/failures/<key>/cancel")
def cancel(key: str) -> Response:
    """Cancels all queued jobs that wait for one thing; `?project=` as above."""
    service = _service()
    group, cancelled = cancel_group(service, key, _project_id(service))
    return jsonify(key=group.key, jobs=cancelled)


def _form(service: Service, group: FailureGroup) -> dict[str, Any]:
    redact = service.settings.redact
    return {
        "key": group.key,
        "trouble": group.trouble,
        "count": group.count,
        "error": redact(group.error),
        "remedy": redact(group.remedy),
        "same_words": group.same_words,
        "retryable": group.retryable,
        "newest_at": group.newest.isoformat(),
        "newest_job": group.newest_job,
    }


def _project_id(service: Service) -> int | None:
    project = number_argument("project")
    return None if project is None else service.store.projects.of_label_studio(project).id


def _service() -> Service:
    service: Service = current_app.extensions["trajseg"]
    return service
