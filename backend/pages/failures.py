"""Reasons on the jobs page: why jobs failed or wait, with counts, and one button that acts on the whole group."""

from __future__ import annotations

from flask import Blueprint, current_app, jsonify, redirect, request, url_for
from flask.typing import ResponseReturnValue

from backend.pages import guard
from backend.service.failures import cancel_group, retry_group
from backend.service.service import Service
from backend.store.failures import FAILED, REJECTED, UNDELIVERED, FailureGroup
from backend.store.reports import Wanted
from trajseg.words import counted

blueprint = Blueprint("failures", __name__, url_prefix="/failures")
MOST_REASONS = 12
"""Most reasons shown; the list of jobs contains the others."""


def shown(service: Service, wanted: Wanted) -> list[FailureGroup]:
    """The reasons for the failed, rejected or postponed jobs on a page; empty on pages of other states."""
    if wanted.state == "queued":
        return service.store.failures.waiting(wanted.project_id, MOST_REASONS)
    troubles = {FAILED: (FAILED, UNDELIVERED), REJECTED: (REJECTED,)}.get(wanted.state, ())
    return service.store.failures.groups(wanted.project_id, troubles, MOST_REASONS)


@blueprint.post("/<key>/retry")
def retry(key: str) -> ResponseReturnValue:
    """Retries everything that failed for one reason."""
    service, project_id = _request()
    _, did = retry_group(service, key, project_id)
    said = f"{counted(did.jobs, 'job')} queued" if did.jobs else f"{counted(did.deliveries, 'result')} delivered again"
    return _answer(said, "failed", project_id)


@blueprint.post("/<key>/cancel")
def cancel(key: str) -> ResponseReturnValue:
    """Cancels all queued jobs that wait for one thing."""
    service, project_id = _request()
    _, cancelled = cancel_group(service, key, project_id)
    return _answer(f"{counted(cancelled, 'job')} cancelled", "queued", project_id)


def _request() -> tuple[Service, int | None]:
    """The service, and the project (the store's id) that the form names, if one is selected. Checks the token."""
    service: Service = current_app.extensions["trajseg"]
    guard.check_token(service.settings, request.form.get(guard.TOKEN_FIELD, ""))
    project = request.args.get("project", "")
    return service, int(project) if project.isdecimal() and len(project) < 10 else None


def _answer(said: str, state: str, project_id: int | None) -> ResponseReturnValue:
    if request.accept_mimetypes.best == "application/json":
        return jsonify(said=said)
    return redirect(url_for("pages.jobs", state=state, project=project_id), 303)
