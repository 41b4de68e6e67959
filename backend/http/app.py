"""create_app: the Flask application that serves Label Studio, people and Prometheus."""

from __future__ import annotations

import logging

from flask import Flask, Response, current_app, jsonify
from werkzeug.exceptions import HTTPException

from backend import pages
from backend.composition import Backend
from backend.http import auth, exports, failures, jobs, media, metrics, openapi
from backend.http import label_studio as routes
from backend.store import UnknownJobError
from trajseg.errors import InputError, ServiceError, TrajSegError, UnknownProjectError

log = logging.getLogger("trajseg.backend")
REMEDIES = {
    400: "Send the JSON that Label Studio 1.23 sends.",
    404: "See docs/api.md for the routes.",
    405: "See docs/api.md for the routes.",
    413: "Send fewer tasks at once, or raise TRAJSEG_MAX_REQUEST_BYTES.",
    415: "Send JSON, with the header Content-Type: application/json.",
}


def create_app(backend: Backend) -> Flask:
    """The application of a backend; see `backend.composition.compose`.

    Raises InputError if only one of the Basic authentication's settings is set.
    """
    settings, service = backend.settings, backend.service
    app = Flask("backend")
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes
    app.extensions["trajseg"] = service
    metrics.measure(app, service, lambda: backend.reconciler.problems)
    auth.protect(app, settings)
    for part in (routes, jobs, failures, exports, media, openapi, pages):
        app.register_blueprint(part.blueprint)
    answer_errors(app)
    return app


def answer_errors(app: Flask) -> None:
    """Makes all of an application's errors JSON with a remedy, without a traceback."""
    app.register_error_handler(TrajSegError, error_answer)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unforeseen)


def error_answer(error: TrajSegError) -> tuple[Response, int]:
    """The HTTP answer for one of our errors: 4xx if the request is at fault, 5xx if we are."""
    if isinstance(error, UnknownProjectError | UnknownJobError):
        status = 404
    elif isinstance(error, InputError):
        status = 400
    else:
        status = 503 if isinstance(error, ServiceError) else 500
    if status >= 500:
        log.error("%s", error)
    redact = current_app.extensions["trajseg"].settings.redact
    return jsonify(error=redact(error.message), remedy=redact(error.remedy)), status


def _http(error: HTTPException) -> tuple[Response, int]:
    status = error.code or 500
    answer = jsonify(error=error.description or error.name, remedy=REMEDIES.get(status, ""))
    return answer, status


def _unforeseen(error: Exception) -> tuple[Response, int]:
    log.exception("unexpected error")
    answer = jsonify(
        error=f"The backend failed with an unexpected error ({type(error).__name__}).",
        remedy="See its log for details.",
    )
    return answer, 500
