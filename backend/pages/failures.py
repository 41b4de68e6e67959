"""Failures on the jobs page: each reason with its count, and one button that retries the whole group."""

from __future__ import annotations

from flask import Blueprint, current_app, jsonify, redirect, request, url_for
from flask.typing import ResponseReturnValue

from backend.pages import guard
from backend.service.failures import retry_group
from backend.service.service import Service
from backend.store.failures import FAILED, REJECTED, FailureGroup
from backend.store.reports import Wanted

blueprint = Blueprint("failures", __name__, url_prefix="/failures")
MOST_REASONS = 12
"""Most reasons shown; the list of jobs contains the others."""


def shown(service: Service, wanted: Wanted) -> list[FailureGroup]:
    """The reasons for the failed or rejected jobs on a page; empty on pages of other states."""
    if wanted.state not in (FAILED, REJECTED):
        return []
    groups = service.store.failures.groups(wanted.project_id)
    return [group for group in groups if (group.trouble == REJECTED) == (wanted.state == REJECTED)][:MOST_REASONS]


@blueprint.post("/<key>/retry")
def retry(key: str) -> ResponseReturnValue:
    """Retries everything that failed for one reason; the form names the project (the store's id) if one is selected."""
    service: Service = current_app.extensions["trajseg"]
    guard.check_token(service.settings, request.form.get(guard.TOKEN_FIELD, ""))
    project = request.args.get("project", "")
    _, did = retry_group(service, key, int(project) if project.isdecimal() and len(project) < 10 else None)
    if request.accept_mimetypes.best == "application/json":
        said = f"{did.jobs} jobs are queued" if did.jobs else f"{did.deliveries} results are delivered again"
        return jsonify(said=said)
    return redirect(url_for("pages.jobs", state="failed", project=project or None), 303)
