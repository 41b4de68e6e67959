"""Previews on the jobs page: the request form and the picture."""

from __future__ import annotations

from flask import Blueprint, current_app, redirect, request, send_file, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import NotFound

from backend.label_studio.outgoing.pictures import preview_path
from backend.pages import guard
from backend.service.previews import request_preview
from backend.service.service import Service
from trajseg.errors import InputError

blueprint = Blueprint("previews", __name__, url_prefix="/previews")


@blueprint.post("/")
def ask() -> ResponseReturnValue:
    """Requests a preview and redirects to its job."""
    service = _service()
    guard.check_token(service.settings, request.form.get(guard.TOKEN_FIELD, ""))
    number = _number("project", 0)
    project = service.store.projects.get(number) if number else None
    job = request_preview(
        service,
        project,
        request.form.get("video", ""),
        request.form.get("instruction", ""),
        request.form.get("engine", ""),
        _number("videos", 1),
    )
    return redirect(url_for("pages.job", job_id=job.id), 303)


@blueprint.get("/<job_id>.png")
def picture(job_id: str) -> ResponseReturnValue:
    """The frames with all candidates, as drawn by the worker."""
    service = _service()
    path = service.settings.media_dir.resolve() / preview_path(service.store.jobs.get(job_id).id)
    if not path.is_file():
        raise NotFound("There is no picture of this preview on this machine.")
    return send_file(path, mimetype="image/png", max_age=60)


def _number(name: str, otherwise: int) -> int:
    text = request.form.get(name, "").strip()
    if not text:
        return otherwise
    if not text.isdecimal() or len(text) > 9:
        raise InputError(f"`{name}` is {text[:40]!r}, not a number.", "Write a whole number.")
    return int(text)


def _service() -> Service:
    service: Service = current_app.extensions["trajseg"]
    return service
